"""The datagrams of the cast: their bytes, and nothing about when they are sent. Pure: no I/O.

Every datagram starts with the same eight bytes: magic, version and kind, a 16-bit field of the kind's own, session. All
numbers are in network order. SOURCE, REPAIR and BEACON go to the group and are PACKET_BYTES long, so that the kernel's
segmentation can cut and join them; the others are unicast. SOURCE and REPAIR are parsed many at once, as numpy records;
the rest by `construct`. docs/wire.md describes the same bytes in words.
"""

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
    Int8ub,
    Int16ub,
    Int32ub,
    PascalString,
    Struct,
    Terminated,
    this,
)

from imager.errors import PacketError
from imager.wire.session import HEADER_BYTES, MAGIC, PACKET_BYTES, SYMBOL_BYTES, VERSION, Kind, Phase, Reject

MAX_NACK_RECORDS = 177
"""What fits one NACK of at most PACKET_BYTES."""
MAX_CONTROL_BYTES = PACKET_BYTES

ByteArray = npt.NDArray[np.uint8]


DATA_HEADER = np.dtype(
    [("magic", "u1"), ("kind", "u1"), ("row", ">u2"), ("session", ">u4"), ("number", ">u4"), ("sequence", ">u4")]
)
"""SOURCE: row 0, number of the symbol in the session. REPAIR: row of the code, number of the block."""

NACK_RECORD = np.dtype([("block", ">u4"), ("lacking", ">u2"), ("next_row", ">u2")])
"""lacking: symbols that are missing beyond the repair symbols in hand; next_row: 1 + the highest repair row seen."""

HeaderArray = npt.NDArray[np.void]
"""Records of DATA_HEADER."""
RecordArray = npt.NDArray[np.void]
"""Records of NACK_RECORD."""

assert DATA_HEADER.itemsize == HEADER_BYTES


def first_byte_pair(kind: Kind) -> tuple[int, int]:
    """Magic, and version with kind."""
    return MAGIC, VERSION << 4 | kind


def _format(kind: Kind, field: str, *rest: Construct) -> Struct:
    return Struct(
        "magic" / Const(MAGIC, Int8ub),
        "kind" / Const(VERSION << 4 | kind, Int8ub),
        field / Int16ub,
        "session" / Int32ub,
        *rest,
    )


SOURCE_FORMAT = _format(Kind.SOURCE, "row", "number" / Int32ub, "sequence" / Int32ub, "payload" / Bytes(SYMBOL_BYTES))
REPAIR_FORMAT = _format(Kind.REPAIR, "row", "number" / Int32ub, "sequence" / Int32ub, "payload" / Bytes(SYMBOL_BYTES))
"""One at a time, for tests and tools; the bulk path uses DATA_HEADER."""

_BEACON_PADDING = bytes(PACKET_BYTES - 20)
_BEACON_FORMAT = _format(
    Kind.BEACON,
    "nack_interval_ms",
    "sequence" / Int32ub,
    "frontier" / Int32ub,
    "phase" / Int8ub,
    "reserved" / Const(bytes(3)),
    "padding" / Const(_BEACON_PADDING),
)
_REPORT = (
    "heard" / Int32ub,
    "received" / Int32ub,
    "lost" / Int32ub,
    "dropped" / Int32ub,
    "repairs" / Int32ub,
    "chunks_done" / Int32ub,
)
_JOIN_FORMAT = _format(Kind.JOIN, "receiver", "chunks_wanted" / Int32ub, Terminated)
_NACK_FORMAT = _format(
    Kind.NACK,
    "receiver",
    *_REPORT,
    "count" / Int16ub,
    "reserved" / Const(bytes(2)),
    "records" / Bytes(this.count * NACK_RECORD.itemsize),
    Terminated,
)
_STATUS_FORMAT = _format(Kind.STATUS, "receiver", *_REPORT, Terminated)
_DONE_FORMAT = _format(Kind.DONE, "receiver", *_REPORT, Terminated)
_LEAVE_FORMAT = _format(Kind.LEAVE, "receiver", "reason" / PascalString(Int8ub, "utf8"), Terminated)
_ACK_FORMAT = _format(Kind.ACK, "receiver", "of" / Int8ub, "answer" / Int8ub, "reserved" / Const(bytes(2)), Terminated)
NACK_RECORDS_OFFSET = 36
"""Bytes before the first record of a NACK."""
assert NACK_RECORDS_OFFSET + MAX_NACK_RECORDS * NACK_RECORD.itemsize <= PACKET_BYTES


@dataclass(frozen=True, slots=True)
class Beacon:
    """Sender to group: where the session is. Sent when nothing else is, and at every change of phase."""

    session: int
    phase: Phase
    sequence: int
    """Of the next SOURCE or REPAIR."""
    frontier: int
    """Blocks below this number were sent once, as far as the plan has them."""
    nack_interval_ms: int
    """A receiver sends NACKs at most this often."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a receiver has seen so far; all counters wrap at 2**32."""

    heard: int
    """Highest sequence number handled."""
    received: int
    """SOURCE and REPAIR datagrams of this session."""
    lost: int
    """Sequence numbers that did not arrive."""
    dropped: int
    """Symbols that arrived while no memory was free for their chunk."""
    repairs: int
    """REPAIR datagrams among `received`."""
    chunks_done: int


@dataclass(frozen=True, slots=True)
class Join:
    """Receiver to sender: here I am. Repeated until acknowledged."""

    session: int
    receiver: int
    chunks_wanted: int


@dataclass(frozen=True, slots=True)
class Nack:
    """Receiver to sender: what these blocks lack."""

    session: int
    receiver: int
    report: Report
    records: RecordArray


@dataclass(frozen=True, slots=True)
class Status:
    """Receiver to sender: alive, and how far."""

    session: int
    receiver: int
    report: Report


@dataclass(frozen=True, slots=True)
class Done:
    """Receiver to sender: every chunk holds. Repeated until acknowledged."""

    session: int
    receiver: int
    report: Report


@dataclass(frozen=True, slots=True)
class Leave:
    """Receiver to sender: I give up, with a reason for a person."""

    session: int
    receiver: int
    reason: str


class Answer(IntEnum):
    """What the sender says to a JOIN or DONE."""

    ACCEPTED = 0
    UNKNOWN_RECEIVER = 1
    FAILED_BEFORE = 2
    """This receiver was given up; it must be admitted again."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Sender to one receiver: a JOIN, DONE or LEAVE has arrived."""

    session: int
    receiver: int
    of: Kind
    answer: Answer


Control = Join | Nack | Status | Done | Leave


def _parse(format_: Struct, data: bytes | memoryview) -> Any:
    try:
        return format_.parse(bytes(data))
    except (ConstructError, UnicodeDecodeError) as error:
        raise PacketError(f"{Reject.NOT_OURS}: {type(error).__name__}") from error


def kind_of(data: bytes | memoryview) -> Kind:
    """The kind of a datagram by its first bytes. Raises PacketError when it is none of ours."""
    if len(data) < 8 or data[0] != MAGIC or data[1] >> 4 != VERSION:
        raise PacketError(Reject.NOT_OURS)
    try:
        return Kind(data[1] & 15)
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error


def _report(parsed: Any) -> Report:
    return Report(parsed.heard, parsed.received, parsed.lost, parsed.dropped, parsed.repairs, parsed.chunks_done)


def _report_fields(report: Report) -> dict[str, int]:
    return {name: getattr(report, name) & 0xFFFFFFFF for name in Report.__slots__}


def parse_control(data: bytes | memoryview) -> Control:
    """A datagram from a receiver. Raises PacketError and nothing else."""
    match kind_of(data):
        case Kind.JOIN:
            parsed = _parse(_JOIN_FORMAT, data)
            return Join(parsed.session, parsed.receiver, parsed.chunks_wanted)
        case Kind.NACK:
            parsed = _parse(_NACK_FORMAT, data)
            return Nack(parsed.session, parsed.receiver, _report(parsed), np.frombuffer(parsed.records, NACK_RECORD))
        case Kind.STATUS:
            parsed = _parse(_STATUS_FORMAT, data)
            return Status(parsed.session, parsed.receiver, _report(parsed))
        case Kind.DONE:
            parsed = _parse(_DONE_FORMAT, data)
            return Done(parsed.session, parsed.receiver, _report(parsed))
        case Kind.LEAVE:
            parsed = _parse(_LEAVE_FORMAT, data)
            return Leave(parsed.session, parsed.receiver, str(parsed.reason))
        case _:
            raise PacketError(Reject.UNSOLICITED)


def build_control(message: Control) -> bytes:
    """The datagram of a receiver's message."""
    fields: dict[str, Any] = {"session": message.session, "receiver": message.receiver}
    match message:
        case Join(chunks_wanted=wanted):
            return bytes(_JOIN_FORMAT.build({**fields, "chunks_wanted": wanted}))
        case Nack(report=report, records=records):
            fields |= {**_report_fields(report), "count": len(records), "records": records.tobytes()}
            return bytes(_NACK_FORMAT.build(fields))
        case Status(report=report):
            return bytes(_STATUS_FORMAT.build({**fields, **_report_fields(report)}))
        case Done(report=report):
            return bytes(_DONE_FORMAT.build({**fields, **_report_fields(report)}))
        case Leave(reason=reason):
            short = reason.encode()[:255].decode(errors="ignore")
            return bytes(_LEAVE_FORMAT.build({**fields, "reason": short}))


def parse_ack(data: bytes | memoryview) -> Ack:
    """A datagram from the sender to one receiver. Raises PacketError and nothing else."""
    parsed = _parse(_ACK_FORMAT, data)
    try:
        return Ack(parsed.session, parsed.receiver, Kind(parsed.of), Answer(parsed.answer))
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error


def build_ack(ack: Ack) -> bytes:
    return bytes(
        _ACK_FORMAT.build({"session": ack.session, "receiver": ack.receiver, "of": ack.of, "answer": ack.answer})
    )


def parse_beacon(data: bytes | memoryview) -> Beacon:
    """A BEACON of PACKET_BYTES. Raises PacketError and nothing else."""
    parsed = _parse(_BEACON_FORMAT, data)
    try:
        phase = Phase(parsed.phase)
    except ValueError as error:
        raise PacketError(Reject.NOT_OURS) from error
    return Beacon(parsed.session, phase, parsed.sequence, parsed.frontier, parsed.nack_interval_ms)


def build_beacon(beacon: Beacon) -> bytes:
    return bytes(
        _BEACON_FORMAT.build(
            {
                "session": beacon.session,
                "nack_interval_ms": beacon.nack_interval_ms,
                "sequence": beacon.sequence & 0xFFFFFFFF,
                "frontier": beacon.frontier,
                "phase": beacon.phase,
            }
        )
    )
