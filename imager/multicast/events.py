"""What happened in a cast, as its cores tell their shells. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from imager.wire.session import Holdup, Phase


class Limit(StrEnum):
    """What holds the rate of a cast where it is."""

    SEARCHING = "searching"
    """Nothing yet: it grows."""
    OPERATOR = "operator"
    LOSS = "loss"
    """A buffer on the way, or in receivers."""
    DISK = "disk"
    """Of a receiver."""
    PROCESSOR = "processor"
    """Of a receiver."""
    SENDER = "sender"
    """The sender's own processor or line gives no more."""


@dataclass(frozen=True, slots=True)
class RateReason:
    """Why the rate is what it is."""

    limit: Limit = Limit.SEARCHING
    receiver: int | None = None
    """The receiver whose disk or processor it is, or the one that loses."""
    receivers: int = 0
    """How many it is true of..."""
    of: int = 0
    """...of so many that receive."""

    def words(self, who: str) -> str:
        """For a person; `who`: the receiver that it names, if it does and that is known."""
        named = who or "a machine"
        others = f" and {self.receivers - 1} more" if self.receivers > 1 else ""
        match self.limit:
            case Limit.OPERATOR:
                return "operator's limit"
            case Limit.LOSS:
                return f"loss on {self.receivers} of {self.of}" + (f" (of late {who})" if who else "")
            case Limit.DISK:
                return f"{named}'s disk{others}"
            case Limit.PROCESSOR:
                return f"{named}'s processor{others}"
            case Limit.SENDER:
                return "this server's processor or line"
            case Limit.SEARCHING:
                return "nothing yet: it still grows"


@dataclass(frozen=True, slots=True)
class SenderStatistics:
    """Counters of one sending, from its start."""

    elapsed_s: float = 0
    """From `begin` to the end."""
    first_pass_s: float = 0
    source_packets: int = 0
    resent_packets: int = 0
    """Source symbols that were sent again."""
    repair_packets: int = 0
    sent_bytes: int = 0
    """UDP payload to the group, beacons left out."""
    nacks: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Datagrams that were counted and dropped, by reason."""
    rate_bps: float = 0
    """The rate at the end; 0: not limited."""


@dataclass(frozen=True, slots=True)
class ReceiverJoined:
    receiver: int
    address: str
    """That its JOIN came from."""


@dataclass(frozen=True, slots=True)
class ReceiverProbed:
    """What it heard of the burst before the session; told of those that heard something and were there in time."""

    receiver: int
    heard: int
    of: int

    @property
    def words(self) -> str:
        """For a person."""
        if self.heard == self.of:
            return f"heard all {self.of} probes"
        lost = "the network loses packets on their way to it, which are repaired"
        return f"heard {self.heard} of {self.of} probes: {lost}"


@dataclass(frozen=True, slots=True)
class ReceiverProgress:
    receiver: int
    chunks_done: int
    received_packets: int
    lost_packets: int
    dropped_packets: int
    """Arrived while the receiver had no memory free for their chunk."""
    repair_packets: int
    rate_bps: float
    """What it took in since its report before, as bits on the wire."""
    hears: bool = True
    """Packets of the group have reached it."""


@dataclass(frozen=True, slots=True)
class ReceiverDone:
    receiver: int


@dataclass(frozen=True, slots=True)
class ReceiverFailed:
    receiver: int
    reason: str
    is_final: bool = False
    """It shall not come again."""


@dataclass(frozen=True, slots=True)
class ReceiverDemoted:
    """It is slow: it keeps what it gets, and is served when the others are done."""

    receiver: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReceiverCounts:
    """One that was demoted has its turn, or keeps up again."""

    receiver: int
    reason: str


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    phase: Phase


@dataclass(frozen=True, slots=True)
class RateChanged:
    """How fast is sent and why not faster, when that has become another; at most once a second."""

    sent_bps: float
    """Bits of frames a second of late."""
    reason: RateReason


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The last event of a sender."""

    statistics: SenderStatistics
    error: str = ""
    """Why sending broke off; empty when it ended as it should."""
    died: bool = False
    """Its process ended without a word: another one may do better."""


SenderEvent = (
    ReceiverJoined
    | ReceiverProbed
    | ReceiverProgress
    | ReceiverDone
    | ReceiverFailed
    | ReceiverDemoted
    | ReceiverCounts
    | PhaseChanged
    | RateChanged
    | SessionEnded
)


@dataclass(frozen=True, slots=True)
class ReceiveStatistics:
    """Counters of one receiver, from its start."""

    received_bytes: int = 0
    """UDP payload of SOURCE and REPAIR that arrived."""
    received_packets: int = 0
    repair_packets: int = 0
    lost_packets: int = 0
    dropped_packets: int = 0
    """Arrived while no memory was free for their chunk."""
    duplicate_packets: int = 0
    nacks: int = 0
    chunks_done: int = 0
    holdup: Holdup = Holdup.NONE
    """What holds the receiver up now."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Datagrams that were counted and dropped, by reason."""


@dataclass(frozen=True, slots=True)
class ChunkAssembled:
    """Every symbol of a chunk is in its slot; the slot is the shell's until it releases the chunk."""

    chunk: int
    slot: int
    length: int
    """Bytes, without the padding of the last symbol."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The sender knows this receiver."""


@dataclass(frozen=True, slots=True)
class DoneAcknowledged:
    """The sender knows that this receiver is done, or has gone: nothing is left to say."""


@dataclass(frozen=True, slots=True)
class GroupSilent:
    """Nothing comes from the group: join it again. Told again while it stays silent."""


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The session cannot give the rest of the chunks."""

    reason: str
    unheard: bool = False
    """The sender answers, but its multicast does not arrive."""


ReceiverEvent = ChunkAssembled | Accepted | DoneAcknowledged | GroupSilent | SessionLost
