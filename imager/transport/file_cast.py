"""Words of a file cast, for the programs at both ends: its options, what it tells, how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from imager.errors import SourceError
from imager.multicast.memory import DEFAULT_BYTES
from imager.transport.discovery import DEFAULT_PORT
from imager.wire.preshared import KEY_RANGE
from imager.wire.session import SYMBOL_BYTES, SlowPolicy

STREAM = Path("-")
"""Standard input as what is sent, standard output as where it goes."""
CHUNK_BYTES = 4 * 200 * SYMBOL_BYTES
"""Four blocks of the longest size: no padding, and the least repair."""


@dataclass(frozen=True, slots=True)
class FileCastProgress:
    """How far a file cast is."""

    step: str
    """spool, hash, wait, send, repair; discover, receive, fetch (by TCP)."""
    done_bytes: int
    total_bytes: int
    """0: not known."""
    receivers: int = 0
    """Sender: receivers that have joined."""
    sent_bps: float = 0
    """Sender: bits of frames a second of late; 0: not known yet."""
    held_by: str = ""
    """Sender: why it is no faster, for a person."""


@dataclass(frozen=True, slots=True)
class FileCastNote:
    """Something that happened, once."""

    what: str
    """Sender: joined, shorter (packets, for all), probed (what it heard of the burst before the cast), unicast (it gets
    the file by TCP), done, failed, refused (it was not given the catalogue). Receiver: resumed (an earlier try left a
    part), unicast, waiting (for a sender to come back), passed over (one that cannot be used)."""
    text: str
    """For a person."""
    receiver: str = ""
    """Sender: its address."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """How a sending ended."""

    receivers_done: int
    failed: dict[str, str]
    """Reasons, by the receivers' addresses."""
    file_bytes: int
    sent_bytes: int
    """UDP payload to the group."""
    elapsed_s: float
    """From the first byte until the last receiver was done."""
    unicast_bytes: int = 0
    """Of chunks given by TCP."""


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """What was received."""

    output: Path
    file_bytes: int
    elapsed_s: float
    """From the catalogue until the file was whole and in its place."""
    received_bytes: int
    """UDP payload of the group that arrived."""
    repair_packets: int
    lost_packets: int
    unicast: str = ""
    """Why it came by TCP; empty when it was cast."""


ProgressCallback = Callable[[FileCastProgress], None]
NoteCallback = Callable[[FileCastNote], None]


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How a file is sent."""

    interface: str | None = None
    """None: the one that the system would send multicast by."""
    min_receivers: int = 1
    max_wait_s: float = 0
    """Begin so long after the first receiver joined; 0: when `min_receivers` have."""
    max_bitrate_bps: int = 0
    """Of what is cast and what goes by TCP, together."""
    group: str | None = None
    """Multicast group of the data; None: one of our range by chance."""
    with_ipv6: bool = False
    """Chance takes a group of IPv6: of the link, or of the site when `ttl` is more than 1."""
    port: int = DEFAULT_PORT
    ttl: int = 1
    mtu: int | None = None
    """Longest packets; None: what the interface carries, if those who are there when it begins get that."""
    fec_share: float = 0.0
    """Repair symbols that are sent unasked, as a share of the file's."""
    slow: SlowPolicy = SlowPolicy.DEMOTE
    floor_bps: int = 0
    """What a receiver must take in not to be slow; 0: nearly what the others take."""
    silence_timeout_s: float = 30
    key: bytes | None = field(default=None, repr=False)
    """Pre-shared: who has it not is given nothing."""
    unicast: bool = False
    """Nothing is cast: each receiver fetches the file by TCP."""
    spool: Path | None = None
    """Directory for what comes from standard input; None: the system's for temporary files."""


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """How a file is received."""

    interface: str | None = None
    port: int = DEFAULT_PORT
    sender: str | None = None
    """Address of a sender whose announcements multicast does not bring."""
    max_wait_s: float = 0
    """For a sender; 0: as long as it takes."""
    sender_timeout_s: float = 60
    memory_bytes: int = DEFAULT_BYTES
    """Bounds what all of it takes (see imager.multicast.memory)."""
    key: bytes | None = field(default=None, repr=False)
    spool: Path | None = None
    """Directory for what standard output cannot take yet."""


def read_key(path: Path) -> bytes:
    """A pre-shared key. Raises SourceError."""
    try:
        with path.open("rb") as file:
            key = file.read(KEY_RANGE.stop)
    except OSError as error:
        raise SourceError(f"cannot read the key {path}: {error.strerror}") from error
    if len(key) not in KEY_RANGE:
        raise SourceError(
            f"{path} is no key: it has {len(key)} bytes of the 16 to 65536 that nobody can guess; "
            f"make one: head -c 32 /dev/urandom > {path}"
        )
    return key


def ignore(_: object) -> None:
    """Where nobody wants to be told."""
