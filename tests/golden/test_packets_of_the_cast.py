"""The bytes of every datagram of the cast, held fixed; and the two codecs of data headers, held equal."""

import numpy as np
import pytest

from imager.errors import PacketError
from imager.wire.announce import Announce, build_announce, parse_announce
from imager.wire.packets import (
    DATA_HEADER,
    FROM_SENDER,
    NACK_RECORD,
    Ack,
    Answer,
    Beacon,
    Control,
    Done,
    Head,
    Join,
    Leave,
    Nack,
    Report,
    Status,
    build_ack,
    build_beacon,
    build_beacon_head,
    build_control,
    build_head,
    first_byte_pair,
    kind_of,
    most_nack_records,
    parse_ack,
    parse_beacon,
    parse_control,
    parse_head,
)
from imager.wire.seal import AesGcm, LibcryptoOpener, Payloads
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, SYMBOL_BYTES, TAG_BYTES, Holdup, Kind, Phase

SESSION = 0xA1B2C3D4
KEY = bytes(range(32))
REPORT = Report(
    heard=0x01020304,
    received=5,
    lost=6,
    dropped=7,
    repairs=8,
    chunks_done=9,
    slots=90,
    free_slots=3,
    holdup=Holdup.PROCESSOR,
    probes=31,
    beacons=200,
)
REPORT_BYTES = "01020304 00000005 00000006 00000007 00000008 00000009 0000005a 00000003 02 1f c8 00"


def records(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(rows), NACK_RECORD)


CONTROL: list[tuple[Control, str]] = [
    (Join(300), "0000012c"),
    (
        Nack(REPORT, records((0x11223344, 2, 5), (9, 200, 56))),
        f"{REPORT_BYTES} 0002 0000 11223344 0002 0005 00000009 00c8 0038",
    ),
    (Status(REPORT), REPORT_BYTES),
    (Done(REPORT), REPORT_BYTES),
    (Leave("disk"), "04 6469736b"),
]


@pytest.mark.parametrize(("message", "expected"), CONTROL, ids=lambda value: type(value).__name__)
def test_control_bodies_have_these_bytes(message: Control, expected: str) -> None:
    assert build_control(message) == bytes.fromhex(expected)


@pytest.mark.parametrize(("message", "data"), CONTROL, ids=lambda value: type(value).__name__)
def test_these_bytes_are_control_bodies(message: Control, data: str) -> None:
    parsed = parse_control(kind_of(message), bytes.fromhex(data))
    if isinstance(message, Nack):
        assert isinstance(parsed, Nack)
        assert parsed.report == message.report
        assert parsed.records.tolist() == message.records.tolist()
    else:
        assert parsed == message


def test_a_sealed_join_and_its_sealed_answer_have_these_bytes() -> None:
    """Computed by another implementation of AES-256-GCM, from head, nonce and body as docs/wire.md gives them."""
    head = Head(Kind.JOIN, 0x0102, SESSION, counter=5)
    data = bytes.fromhex("ca 33 0102 a1b2c3d4 0000000000000005" + "b97940ce 86bf91cea071b17fa38dd4d1470ec381")
    assert AesGcm(KEY).seal(build_head(head), build_control(Join(300))) == data
    assert parse_head(data) == head
    assert parse_control(head.kind, AesGcm(KEY).open(data)) == Join(300)
    back = Head(Kind.ACK, 0x0102, SESSION, FROM_SENDER)
    data = bytes.fromhex("ca 37 0102 a1b2c3d4 8000000000000000" + "ffcdff9c4cc727aa 573da4c5c1a8373f823846d5a4c0512d")
    assert AesGcm(KEY).seal(build_head(back), build_ack(Ack(Kind.JOIN, Answer.FAILED_BEFORE, 0xABCDEF))) == data


def test_an_acknowledgement_has_these_bytes() -> None:
    ack = Ack(Kind.JOIN, Answer.FAILED_BEFORE, sequence=0xABCDEF)
    data = bytes.fromhex("03 02 0000 00abcdef")
    assert build_ack(ack) == data
    assert parse_ack(data) == ack


def test_a_beacon_has_these_bytes_and_the_length_of_a_data_packet() -> None:
    assert build_beacon_head(SESSION, 7) == bytes.fromhex("ca 32 0000 a1b2c3d4 ffffffff 00000007")
    beacon = Beacon(Phase.REPAIRING, sequence=0x01020304, frontier=77, nack_interval_ms=10, probe=True)
    body = bytes.fromhex("01020304 0000004d 000a 02 01").ljust(SYMBOL_BYTES, b"\0")
    assert build_beacon(beacon, SYMBOL_BYTES) == body
    assert parse_beacon(body) == beacon
    assert len(AesGcm(KEY).seal(build_beacon_head(SESSION, 7), body)) == PACKET_BYTES


def test_an_announcement_has_these_bytes() -> None:
    announce = Announce(SESSION, catalogue_port=1, data_port=2, control_port=3, group="239.77.4.5", name="häuser")
    data = bytes.fromhex("ca 38 0001 a1b2c3d4 0002 0003 ef4d0405 07 68c3a4 7573 6572")
    assert build_announce(announce) == data
    assert parse_announce(data) == announce


def test_an_announcement_of_a_cast_by_ipv6_has_these_bytes() -> None:
    announce = Announce(SESSION, catalogue_port=1, data_port=2, control_port=3, group="ff12::a000:5", name="x")
    group = "ff12 0000 0000 0000 0000 0000 a000 0005"
    data = bytes.fromhex(f"ca 3a 0001 a1b2c3d4 0002 0003 {group} 01 78")
    assert build_announce(announce) == data
    assert parse_announce(data) == announce


def a_packet(kind: Kind, row: int) -> np.ndarray:
    """Of number 0x10000001 and sequence 0xfffffffe, sealed; its payload counts from 0 to 239 over and over."""
    packet = np.zeros((1, PACKET_BYTES), np.uint8)
    header = packet[:, :HEADER_BYTES].view(DATA_HEADER)[:, 0]
    header["magic"], header["kind"] = first_byte_pair(kind)
    header["row"], header["session"], header["number"], header["sequence"] = row, SESSION, 0x10000001, 0xFFFFFFFE
    AesGcm(KEY).sealer(packet).seal(0, Payloads(PAYLOAD.reshape(1, -1)), 0, 1)
    return packet


PAYLOAD = np.frombuffer(bytes(range(240)) * 6, np.uint8)
PACKETS = [
    (Kind.SOURCE, 0, "ca30", ("4c85fbd96584f9e54ebea92e9c11db75", "2855253673cf4939072d6611e9577e0b")),
    (Kind.REPAIR, 0x0037, "ca31", ("4c85fbd96584f9e54ebea92e9c11db75", "a02f73828385cc6cb6b719e94087c7bd")),
]


@pytest.mark.parametrize(("kind", "row", "head", "sealed"), PACKETS, ids=["SOURCE", "REPAIR"])
def test_data_packets_have_these_bytes(kind: Kind, row: int, head: str, sealed: tuple[str, str]) -> None:
    data = a_packet(kind, row)[0].tobytes()
    assert len(data) == PACKET_BYTES == HEADER_BYTES + SYMBOL_BYTES + TAG_BYTES
    assert data[:HEADER_BYTES] == bytes.fromhex(f"{head} {row:04x} a1b2c3d4 10000001 fffffffe")
    assert (data[HEADER_BYTES:][:16].hex(), data[-TAG_BYTES:].hex()) == sealed


@pytest.mark.parametrize(
    "opener", [lambda packet: AesGcm(KEY).opener(packet), lambda packet: LibcryptoOpener(KEY, packet)]
)
def test_both_ways_open_them(opener: object) -> None:
    assert callable(opener)
    packets = np.concatenate([a_packet(kind, row) for kind, row, _, _ in PACKETS] * 2)
    packets[1, 700] ^= 4
    out = bytearray(4 * SYMBOL_BYTES)
    assert opener(packets).open(0, 4, memoryview(out)) == [1]
    for number in (0, 2, 3):
        assert out[number * SYMBOL_BYTES : (number + 1) * SYMBOL_BYTES] == PAYLOAD.tobytes()
    assert opener(packets).open(1, 3, None) == [0]


def test_a_nack_is_never_longer_than_the_packets_of_its_group() -> None:
    for packet_bytes in (512, PACKET_BYTES, 8972):
        most = most_nack_records(packet_bytes)
        body = build_control(Nack(REPORT, np.zeros(most, NACK_RECORD)))
        assert packet_bytes - 8 < HEADER_BYTES + len(body) + TAG_BYTES <= packet_bytes


@pytest.mark.parametrize(
    "data",
    [b"", b"\xca", bytes(40), bytes.fromhex("ca 23 0102 a1b2c3d4") + bytes(32), bytes.fromhex("ca 3f") + bytes(38)],
    ids=["empty", "one byte", "zeros", "another version", "unknown kind"],
)
def test_what_is_not_of_the_protocol_is_a_packet_error(data: bytes) -> None:
    for parse in (parse_head, parse_announce):
        with pytest.raises(PacketError):
            parse(data)


def test_a_control_body_with_a_byte_too_many_or_too_few_is_a_packet_error() -> None:
    for message, expected in CONTROL:
        data = bytes.fromhex(expected)
        for wrong in (data + b"\0", data[:-1]):
            with pytest.raises(PacketError):
                parse_control(kind_of(message), wrong)
