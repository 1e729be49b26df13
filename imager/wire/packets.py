"""The datagrams of the cast: their bytes, and nothing about when they are sent. Pure: no I/O.

Every sealed datagram starts with sixteen bytes: magic, version and kind, a 16-bit field of the kind's own, session, and
eight more that make its nonce unique. All numbers are in network order. SOURCE, REPAIR and BEACON go to the group and
have one length, so that the kernel's segmentation can cut and join them; the others are unicast. SOURCE and REPAIR are
parsed many at once, as numpy records; heads of the others by `struct`, as anyone can send them, and what was sealed by
`construct`. docs/wire.md describes the same bytes in words.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from construct import (
    Bytes,
    Const,
    Construct,
    ConstructError,
    Flag,
    Int8ub,
    Int16ub,
    Int32ub,
    PascalString,
    Struct,
    Terminated,
    this,
)

from imager.errors import PacketError
from imager.wire.session import BEACON_NUMBER, HEADER_BYTES, MAGIC, TAG_BYTES, VERSION, Holdup, Kind, Phase, Reject

FROM_SENDER = 1 << 63
"""In the counter of what the sender says to one receiver, as both seal with one key."""

DATA_HEADER = np.dtype(
    [("magic", "u1"), ("kind", "u1"), ("row", ">u2"), ("session", ">u4"), ("number", ">u4"), ("sequence", ">u4")]
)
"""SOURCE: row 0, number of the symbol in the session. REPAIR: row of the code, number of the block."""

NACK_RECORD = np.dtype([("block", ">u4"), ("lacking", ">u2"), ("next_row", ">u2")])
"""lacking: symbols that are missing beyond the repair symbols in hand; next_row: 1 + the highest repair row seen."""

RecordArray = npt.NDArray[np.void]
"""Records of NACK_RECORD."""

assert DATA_HEADER.itemsize == HEADER_BYTES


def first_byte_pair(kind: Kind) -> tuple[int, int]:
    """Magic, and version with kind."""
    return MAGIC, VERSION << 4 | kind


_HEAD = struct.Struct(">BBHIQ")
_BEACON_FORMAT = Struct(
    "sequence" / Int32ub,
    "frontier" / Int32ub,
    "nack_interval_ms" / Int16ub,
    "phase" / Int8ub,
    "probe" / Flag,
)
_REPORT = (
    "heard" / Int32ub,
    "received" / Int32ub,
    "lost" / Int32ub,
    "dropped" / Int32ub,
    "repairs" / Int32ub,
    "chunks_done" / Int32ub,
    "slots" / Int32ub,
    "free_slots" / Int32ub,
    "holdup" / Int8ub,
    "probes" / Int8ub,
    "beacons" / Int8ub,
    "reserved" / Const(bytes(1)),
)
_FORMATS: dict[Kind, Construct] = {
    Kind.JOIN: Struct("chunks_wanted" / Int32ub, Terminated),
    Kind.NACK: Struct(
        *_REPORT,
        "count" / Int16ub,
        "reserved_too" / Const(bytes(2)),
        "records" / Bytes(this.count * NACK_RECORD.itemsize),
        Terminated,
    ),
    Kind.STATUS: Struct(*_REPORT, Terminated),
    Kind.DONE: Struct(*_REPORT, Terminated),
    Kind.LEAVE: Struct("reason" / PascalString(Int8ub, "utf8"), Terminated),
    Kind.ACK: Struct("of" / Int8ub, "answer" / Int8ub, "reserved" / Const(bytes(2)), "sequence" / Int32ub, Terminated),
}
_NACK_BYTES = HEADER_BYTES + 40 + TAG_BYTES
"""Of a NACK without records."""


def most_nack_records(packet_bytes: int) -> int:
    """What one NACK may have, so that it is no longer than the packets of the group."""
    return (packet_bytes - _NACK_BYTES) // NACK_RECORD.itemsize


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes of a datagram between the sender and one receiver. Not proven before it is opened."""

    kind: Kind
    receiver: int
    session: int
    counter: int
    """Grows with every datagram of the same direction: FROM_SENDER or below."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """Sender to group: where the session is. Sent when nothing else is, and at every change of phase."""

    phase: Phase
    sequence: int
    """Of the next SOURCE or REPAIR."""
    frontier: int
    """Blocks below this number were sent once, as far as the plan has them."""
    nack_interval_ms: int
    """A receiver sends NACKs at most this often."""
    probe: bool = False
    """One of the burst before the session, which receivers count."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a receiver has seen so far; all counters wrap at 2**32."""

    heard: int
    """Highest sequence number handled."""
    received: int
    """SOURCE and REPAIR datagrams of this session, each counted once."""
    lost: int
    """Sequence numbers that did not arrive."""
    dropped: int
    """Symbols that arrived while no memory was free for their chunk."""
    repairs: int
    """REPAIR datagrams among `received`."""
    chunks_done: int
    slots: int
    """Chunks that its memory holds."""
    free_slots: int
    holdup: Holdup
    probes: int = 0
    """Probes that it heard, 0..255."""
    beacons: int = 0
    """Beacons that it heard, 0..255: with none, it may be that nothing as long as data reaches it."""


@dataclass(frozen=True, slots=True)
class Join:
    """Receiver to sender: here I am. Repeated until acknowledged."""

    chunks_wanted: int


@dataclass(frozen=True, slots=True)
class Nack:
    """Receiver to sender: what these blocks lack."""

    report: Report
    records: RecordArray


@dataclass(frozen=True, slots=True)
class Status:
    """Receiver to sender: alive, and how far."""

    report: Report


@dataclass(frozen=True, slots=True)
class Done:
    """Receiver to sender: every chunk holds. Repeated until acknowledged."""

    report: Report


@dataclass(frozen=True, slots=True)
class Leave:
    """Receiver to sender: I give up, with a reason for a person."""

    reason: str


class Answer(IntEnum):
    """What the sender says to a receiver that it knows."""

    ACCEPTED = 0
    FAILED_BEFORE = 2
    """This receiver was given up; it must be admitted again."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Sender to one receiver: a JOIN, DONE or LEAVE has arrived."""

    of: Kind
    answer: Answer
    sequence: int
    """Of the next SOURCE or REPAIR: what is below it was sent before."""


Control = Join | Nack | Status | Done | Leave
_KINDS: dict[type, Kind] = {
    Join: Kind.JOIN,
    Nack: Kind.NACK,
    Status: Kind.STATUS,
    Done: Kind.DONE,
    Leave: Kind.LEAVE,
}


def kind_of(message: Control) -> Kind:
    return _KINDS[type(message)]


def parse_head(data: bytes) -> Head:
    """The head of a unicast datagram. Raises PacketError for what is too short to be sealed, or of no kind of ours."""
    if len(data) < HEADER_BYTES + TAG_BYTES:
        raise PacketError(Reject.NOT_OURS)
    magic, kind, receiver, session, counter = _HEAD.unpack_from(data)
    if magic != MAGIC or kind >> 4 != VERSION:
        raise PacketError(Reject.NOT_OURS)
    try:
        return Head(Kind(kind & 15), receiver, session, counter)
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error


def build_head(head: Head) -> bytes:
    return _HEAD.pack(*first_byte_pair(head.kind), head.receiver, head.session, head.counter)


def build_beacon_head(session: int, counter: int) -> bytes:
    """`counter`, of 32 bits, may never come twice in a session."""
    return _HEAD.pack(*first_byte_pair(Kind.BEACON), 0, session, BEACON_NUMBER << 32 | counter)


def _parse(format_: Construct, body: bytes) -> Any:
    try:
        return format_.parse(body)
    except (ConstructError, UnicodeDecodeError) as error:
        raise PacketError(f"{Reject.NOT_OURS}: {type(error).__name__}") from error


def _report(parsed: Any) -> Report:
    fields = {name: getattr(parsed, name) for name in Report.__slots__}
    try:
        return Report(**fields | {"holdup": Holdup(parsed.holdup)})
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error


def _report_fields(report: Report) -> dict[str, int]:
    return {name: getattr(report, name) & 0xFFFFFFFF for name in Report.__slots__}


def parse_control(kind: Kind, body: bytes) -> Control:
    """What a receiver said, opened. Raises PacketError and nothing else."""
    if kind not in _KINDS.values():
        raise PacketError(Reject.UNSOLICITED)
    parsed = _parse(_FORMATS[kind], body)
    match kind:
        case Kind.JOIN:
            return Join(parsed.chunks_wanted)
        case Kind.NACK:
            return Nack(_report(parsed), np.frombuffer(parsed.records, NACK_RECORD))
        case Kind.STATUS:
            return Status(_report(parsed))
        case Kind.DONE:
            return Done(_report(parsed))
        case _:
            return Leave(str(parsed.reason))


def build_control(message: Control) -> bytes:
    """The body of a receiver's message."""
    match message:
        case Join(chunks_wanted=wanted):
            fields: dict[str, Any] = {"chunks_wanted": wanted}
        case Nack(report=report, records=records):
            fields = {**_report_fields(report), "count": len(records), "records": records.tobytes()}
        case Status(report=report) | Done(report=report):
            fields = _report_fields(report)
        case Leave(reason=reason):
            fields = {"reason": reason.encode()[:255].decode(errors="ignore")}
    return bytes(_FORMATS[kind_of(message)].build(fields))


def parse_ack(body: bytes) -> Ack:
    """The sender's answer to one receiver, opened. Raises PacketError and nothing else."""
    parsed = _parse(_FORMATS[Kind.ACK], body)
    try:
        return Ack(Kind(parsed.of), Answer(parsed.answer), parsed.sequence)
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error


def build_ack(ack: Ack) -> bytes:
    return bytes(_FORMATS[Kind.ACK].build({"of": ack.of, "answer": ack.answer, "sequence": ack.sequence}))


def parse_beacon(body: bytes) -> Beacon:
    """A BEACON, opened; what fills it up is not looked at. Raises PacketError and nothing else."""
    parsed = _parse(_BEACON_FORMAT, body)
    try:
        phase = Phase(parsed.phase)
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error
    return Beacon(phase, parsed.sequence, parsed.frontier, parsed.nack_interval_ms, parsed.probe)


def build_beacon(beacon: Beacon, symbol_bytes: int) -> bytes:
    """The body, filled up to the length of a symbol."""
    fields = {
        "sequence": beacon.sequence,
        "frontier": beacon.frontier,
        "nack_interval_ms": beacon.nack_interval_ms,
        "phase": beacon.phase,
        "probe": beacon.probe,
    }
    return bytes(_BEACON_FORMAT.build(fields)).ljust(symbol_bytes, b"\0")
