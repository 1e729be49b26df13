"""Every error that `imager` raises on purpose.

    ImagerError
      PeerError         the other side sent nonsense: drop, count, go on
        PacketError       a datagram of the cast
        MessageError      a JSON body between agent and appliance
        ManifestError     a manifest that is damaged, unsigned or of an unknown version
        ChunkError        stored bytes that are not the chunk that they should be
      WorldError        the machine, a disk or a program failed: tell a person what to do
        SourceError       a capture source that cannot be read as an image
        TargetError       a disk that must not or cannot take this image
        DiskError         reading or writing a disk failed
        StoreError        the image store cannot give or take data
          UnknownImage      there is no image or version of that name
        ToolError         a program of the distribution failed
        CastError         a session ended without its image
          GroupUnheard      the sender answers, but its multicast does not arrive here: there is unicast
        ApplianceError    the appliance cannot be reached or refused

What we misuse ourselves is a ValueError or an assertion.
"""

from dataclasses import dataclass


class ImagerError(Exception):
    """Base of all errors of this package. `str()` is one line for a person that says what to do."""


class PeerError(ImagerError):
    """The other side sent something that is not of the protocol."""


class PacketError(PeerError):
    """A datagram of the cast that does not parse."""


class MessageError(PeerError):
    """A JSON body that is not the message it should be."""


class ManifestError(PeerError):
    """A manifest that is damaged, not signed by the expected key, or of an unknown version."""


class ChunkError(PeerError):
    """Stored bytes that do not decompress, or not to what their hash says."""


class WorldError(ImagerError):
    """Something outside the program failed."""


class SourceError(WorldError):
    """A capture source that cannot be imaged: mounted, missing, dirty."""


class TargetError(WorldError):
    """A target that must not be written: too small, not the machine's own disk, mounted."""


@dataclass
class DiskError(WorldError):
    """Reading or writing a disk failed."""

    device: str
    offset: int
    """Bytes from the start of the device."""
    cause: str

    def __str__(self) -> str:
        return f"{self.device}: {self.cause} at byte {self.offset}; check the disk and its cable"


class StoreError(WorldError):
    """The image store cannot give or take data."""


class UnknownImage(StoreError):
    """There is no image of that name, or not that version of it."""


@dataclass
class ToolError(WorldError):
    """A program that we run ended with an error."""

    command: str
    """The command line, as it can be pasted into a shell."""
    status: int
    output: str
    """The last lines of its output."""

    def __str__(self) -> str:
        last = self.output.strip().splitlines()[-1] if self.output.strip() else "no output"
        return f"`{self.command}` ended with {self.status}: {last}"


class CastError(WorldError):
    """A session ended without its image on this machine."""


class GroupUnheard(CastError):
    """The sender answers, but none of its multicast arrives: what is lacking can be had by unicast."""


class ApplianceError(WorldError):
    """The appliance cannot be reached, or refused what the agent asked for."""
