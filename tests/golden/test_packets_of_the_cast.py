"""The bytes of every datagram of the cast, held fixed; and the two codecs of data headers, held equal."""

import numpy as np
import pytest

from imager.errors import PacketError
from imager.wire.announce import Announce, build_announce, parse_announce
from imager.wire.packets import (
    DATA_HEADER,
    NACK_RECORD,
    REPAIR_FORMAT,
    SOURCE_FORMAT,
    Ack,
    Answer,
    Beacon,
    Control,
    Done,
    Join,
    Leave,
    Nack,
    Report,
    Status,
    build_ack,
    build_beacon,
    build_control,
    first_byte_pair,
    parse_ack,
    parse_beacon,
    parse_control,
)
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, SYMBOL_BYTES, Kind, Phase

SESSION = 0xA1B2C3D4
REPORT = Report(heard=0x01020304, received=5, lost=6, dropped=7, repairs=8, chunks_done=9)
REPORT_BYTES = "01020304 00000005 00000006 00000007 00000008 00000009"


def records(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(rows), NACK_RECORD)


CONTROL: list[tuple[Control, str]] = [
    (Join(SESSION, 0x0102, 300), "ca 13 0102 a1b2c3d4 0000012c"),
    (
        Nack(SESSION, 3, REPORT, records((0x11223344, 2, 5), (9, 200, 56))),
        f"ca 14 0003 a1b2c3d4 {REPORT_BYTES} 0002 0000 11223344 0002 0005 00000009 00c8 0038",
    ),
    (Status(SESSION, 3, REPORT), f"ca 15 0003 a1b2c3d4 {REPORT_BYTES}"),
    (Done(SESSION, 3, REPORT), f"ca 16 0003 a1b2c3d4 {REPORT_BYTES}"),
    (Leave(SESSION, 3, "disk"), "ca 19 0003 a1b2c3d4 04 6469736b"),
]


@pytest.mark.parametrize(("message", "expected"), CONTROL, ids=lambda value: type(value).__name__)
def test_control_datagrams_have_these_bytes(message: Control, expected: str) -> None:
    assert build_control(message) == bytes.fromhex(expected)


@pytest.mark.parametrize(("message", "data"), CONTROL, ids=lambda value: type(value).__name__)
def test_these_bytes_are_control_datagrams(message: Control, data: str) -> None:
    parsed = parse_control(bytes.fromhex(data))
    if isinstance(message, Nack):
        assert isinstance(parsed, Nack)
        assert parsed.report == message.report
        assert parsed.records.tolist() == message.records.tolist()
    else:
        assert parsed == message


def test_an_acknowledgement_has_these_bytes() -> None:
    ack = Ack(SESSION, 7, Kind.JOIN, Answer.FAILED_BEFORE)
    data = bytes.fromhex("ca 17 0007 a1b2c3d4 03 02 0000")
    assert build_ack(ack) == data
    assert parse_ack(data) == ack


def test_a_beacon_has_these_bytes_and_the_length_of_a_data_packet() -> None:
    beacon = Beacon(SESSION, Phase.REPAIRING, sequence=0x01020304, frontier=77, nack_interval_ms=10)
    data = bytes.fromhex("ca 12 000a a1b2c3d4 01020304 0000004d 02 000000").ljust(PACKET_BYTES, b"\0")
    assert build_beacon(beacon) == data
    assert parse_beacon(data) == beacon


def test_an_announcement_has_these_bytes() -> None:
    announce = Announce(SESSION, catalogue_port=1, data_port=2, control_port=3, group="239.77.4.5", name="häuser")
    data = bytes.fromhex("ca 18 0001 a1b2c3d4 0002 0003 ef4d0405 07 68c3a4 7573 6572")
    assert build_announce(announce) == data
    assert parse_announce(data) == announce


@pytest.mark.parametrize(("kind", "row", "expected"), [(Kind.SOURCE, 0, "ca10"), (Kind.REPAIR, 0x0037, "ca11")])
def test_both_codecs_of_data_headers_agree(kind: Kind, row: int, expected: str) -> None:
    payload = bytes(range(240)) * 6
    header = np.zeros(1, DATA_HEADER)
    header["magic"], header["kind"] = first_byte_pair(kind)
    header["row"], header["session"], header["number"], header["sequence"] = row, SESSION, 0x10000001, 0xFFFFFFFE
    data = header.tobytes() + payload
    fields = {"row": row, "session": SESSION, "number": 0x10000001, "sequence": 0xFFFFFFFE, "payload": payload}
    format_ = SOURCE_FORMAT if kind is Kind.SOURCE else REPAIR_FORMAT
    assert data == format_.build(fields)
    assert data[:HEADER_BYTES] == bytes.fromhex(f"{expected} {row:04x} a1b2c3d4 10000001 fffffffe")
    assert len(data) == PACKET_BYTES == HEADER_BYTES + SYMBOL_BYTES
    parsed = format_.parse(data)
    assert {name: parsed[name] for name in fields} == fields


@pytest.mark.parametrize(
    "data",
    [b"", b"\xca", bytes(8), bytes.fromhex("ca 23 0102 a1b2c3d4 0000012c"), bytes.fromhex("ca 1f 0102 a1b2c3d4")],
    ids=["empty", "one byte", "zeros", "another version", "unknown kind"],
)
def test_what_is_not_of_the_protocol_is_a_packet_error(data: bytes) -> None:
    for parse in (parse_control, parse_ack, parse_beacon, parse_announce):
        with pytest.raises(PacketError):
            parse(data)


def test_a_control_datagram_with_a_byte_too_many_or_too_few_is_a_packet_error() -> None:
    for _, expected in CONTROL:
        data = bytes.fromhex(expected)
        for wrong in (data + b"\0", data[:-1]):
            with pytest.raises(PacketError):
                parse_control(wrong)
