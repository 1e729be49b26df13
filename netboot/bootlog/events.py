"""What happens while a machine boots, as values. Pure.

Texts of clients (names, classes, paths) are kept as they came, cut to `LONGEST_TEXT`; words.py makes them fit to be
shown.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

LONGEST_TEXT = 160
"""Of anything that a stranger sent."""

_SEPARATORS = str.maketrans("", "", ":-. ")
_TWELVE_DIGITS = re.compile(r"[0-9a-f]{12}")


def cut(text: str) -> str:
    """The text, or its beginning."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."


def parse_mac(text: str) -> str | None:
    """A MAC in any spelling (aa:bb:.., AA-BB-.., aabb.ccdd.eeff, aabbccddeeff) as we write it; None: it is none."""
    digits = text.lower().translate(_SEPARATORS)
    if len(text) > 20 or not _TWELVE_DIGITS.fullmatch(digits):
        return None
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


@dataclass(frozen=True, slots=True)
class BootEvent:
    """Base of all events. `kind` names the class in a document."""

    kind: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Exchange(BootEvent):
    """One DHCP packet of the machine, and what became of it."""

    kind: ClassVar[str] = "dhcp"

    message: str
    """DISCOVER, REQUEST, INFORM, DECLINE, RELEASE or BOOTP."""
    port: int = 67
    """4011: the second step with a proxy."""
    is_firmware: bool = False
    """A boot ROM asks: PXE, UEFI HTTP or iPXE. Not: GRUB, the agent, an installed system."""
    firmware: str = ""
    """As classified (`bios`, `uefi-x64`...); empty when nobody could tell."""
    arch: int = -1
    """Option 93; -1: not sent."""
    vendor_class: str = ""
    user_class: str = ""
    hostname: str = ""
    wished: str = ""
    """The address that it asked for, or holds."""
    server: str = ""
    """Whose offer it takes (option 54)."""
    relay: str = ""
    answer: str = ""
    """OFFER, ACK or NAK; empty: it was ignored."""
    address: str = ""
    """That the answer gives."""
    boot_server: str = ""
    boot_file: str = ""
    """That the answer tells."""
    why: str = ""
    """Of the boot file, of a NAK, of an answer without a boot file, or of the silence."""


class FetchState(StrEnum):
    """Where the fetch of a file is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    PART = "part"
    """Ranges of the file went out, as HTTP can ask for them; DONE once they are all of it."""
    SIZED = "sized"
    """The client only wanted to know the size (RFC 2349)."""
    REFUSED = "refused"
    """No such file, or not for this machine."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file."""

    first: int
    end: int
    """After the last."""


@dataclass(frozen=True, slots=True)
class Fetch(BootEvent):
    """One file that the machine asked for."""

    kind: ClassVar[str] = "fetch"

    transport: str
    """tftp or http."""
    path: str
    state: FetchState
    size: int = -1
    """Bytes of the file; -1: not known."""
    sent: int = 0
    """Bytes that the machine acknowledged (TFTP) or that left (HTTP)."""
    seconds: float = 0.0
    block_bytes: int = 0
    """TFTP: as agreed."""
    blocks: int = 0
    """TFTP: acknowledged."""
    resent: int = 0
    """TFTP: blocks sent again."""
    why: str = ""
    """It failed or was refused."""
    ranges: tuple[Span, ...] = ()
    """HTTP: what was asked for, in order, not touching; empty: all of the file."""
    parts: int = 0
    """HTTP: so many answers with a range of it."""


class Told(StrEnum):
    """What GRUB was told to do."""

    AGENT = "agent"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Configured(BootEvent):
    """The machine's GRUB configuration was rendered."""

    kind: ClassVar[str] = "configured"

    told: Told
    machine: str = ""
    why: str = ""
    way: str = ""
    """To its own disk: chainload, exit; none: no way led there."""


@dataclass(frozen=True, slots=True)
class Registered(BootEvent):
    """The agent runs and said so."""

    kind: ClassVar[str] = "registered"

    machine: str
    is_new: bool = False
    boot_s: float = 0.0
    """Since its kernel started."""
    firmware: str = ""
    secure_boot: bool = False
    memory_bytes: int = 0
    refused: str = ""
    """Why it was turned away; empty: it was taken."""


class AgentStep(StrEnum):
    """What the agent does next."""

    WAITS = "waits"
    TASK = "task"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOCAL = "local"
    """It was told to start the machine's own disk."""


@dataclass(frozen=True, slots=True)
class Agent(BootEvent):
    """The agent asked for its task, or ended it."""

    kind: ClassVar[str] = "agent"

    step: AgentStep
    task: str = ""
    """deploy debian-12 version 3."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in its place."""

    number: int
    """Counts up from 1 within a boot."""
    at_s: float
    """Unix seconds, of a clock that never jumps."""
    event: BootEvent
    count: int = 1
    """How often it came, one directly after the other."""
    last_s: float = 0.0
    """When it came last."""
