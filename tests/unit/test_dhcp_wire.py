"""DHCP packets: bytes to values and back, and what real firmware gets away with."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from dhcp_builders import MACHINE_ID, a_discover

from netboot.errors import WireError
from netboot.wire.dhcp import HEADER_BYTES, DhcpPacket, Options, build_dhcp, message_limit, parse_dhcp
from netboot.wire.dhcp_options import (
    BOOT_FILE_NAME,
    CLIENT_ARCH,
    CLIENT_MACHINE_ID,
    DNS_SERVERS,
    HOST_NAME,
    LEASE_TIME,
    MAX_MESSAGE_BYTES,
    MESSAGE_TYPE,
    REGISTRY,
    RELAY_AGENT,
    USER_CLASS,
    VENDOR_OPTIONS,
    MessageType,
    relay_sub_options,
)
from netboot.wire.frame import build_udp_frame
from netboot.wire.pxe import system_uuid


def with_raw_options(*parts: bytes, file: bytes = b"", sname: bytes = b"") -> bytes:
    header = bytearray(build_dhcp(a_discover())[:HEADER_BYTES])
    header[44 : 44 + len(sname)] = sname
    header[108 : 108 + len(file)] = file
    return bytes(header) + b"".join(parts)


def test_a_packet_survives_building_and_parsing() -> None:
    packet = a_discover(arch=7, ipxe=True, wished=IPv4Address("10.0.0.9"), flags=0x8000, secs=7, file=b"x", sname=b"y")
    assert parse_dhcp(build_dhcp(packet)) == packet


def test_a_reply_is_never_shorter_than_bootp() -> None:
    assert len(build_dhcp(a_discover())) == 300


def test_a_short_packet_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="shorter than its header"):
        parse_dhcp(b"\1" * 239)


def test_a_packet_without_the_cookie_is_a_wire_error() -> None:
    data = bytearray(build_dhcp(a_discover()))
    data[236] = 0
    with pytest.raises(WireError, match="cookie"):
        parse_dhcp(bytes(data))


def test_a_hardware_address_longer_than_its_field_is_a_wire_error() -> None:
    data = bytearray(build_dhcp(a_discover()))
    data[2] = 17
    with pytest.raises(WireError, match="hardware address"):
        parse_dhcp(bytes(data))


def test_a_cut_option_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="cut"):
        parse_dhcp(with_raw_options(bytes([53, 1, 1, 12, 9]), b"abc"))


def test_a_missing_end_is_tolerated() -> None:
    assert parse_dhcp(with_raw_options(bytes([53, 1, 1]))).message_type is MessageType.DISCOVER


def test_options_after_the_end_are_not_read() -> None:
    packet = parse_dhcp(with_raw_options(bytes([53, 1, 1, 255, 12, 1, 65])))
    assert packet.options.get(HOST_NAME) is None


def test_parts_of_one_option_are_joined() -> None:
    packet = parse_dhcp(with_raw_options(bytes([53, 1, 1, 12, 2]), b"ab", bytes([12, 2]), b"cd", b"\xff"))
    assert packet.options.get(HOST_NAME) == "abcd"


def test_a_long_option_is_written_in_parts() -> None:
    packet = a_discover()
    long = bytes(range(256)) * 2
    data = build_dhcp(
        type(packet)(op=1, xid=1, chaddr=packet.chaddr, options=packet.options.with_option(VENDOR_OPTIONS, long))
    )
    assert parse_dhcp(data).options.get(VENDOR_OPTIONS) == long


def test_options_in_file_and_sname_are_read_when_overloaded() -> None:
    data = with_raw_options(bytes([52, 1, 3, 53, 1, 1, 255]), file=b"\x0c\2pc\xff", sname=b"\x43\3a.0\xff")
    packet = parse_dhcp(data)
    assert packet.options.get(HOST_NAME) == "pc"
    assert packet.options.get(BOOT_FILE_NAME) == "a.0"
    assert packet.file == packet.sname == b""


def test_file_is_a_name_without_overload() -> None:
    packet = parse_dhcp(with_raw_options(bytes([53, 1, 1, 255]), file=b"\x0c\2pc\xff"))
    assert packet.options.get(HOST_NAME) is None
    assert packet.file == b"\x0c\2pc\xff"


@pytest.mark.parametrize("overload", [bytes([52, 1, 0]), bytes([52, 1, 4]), bytes([52, 2, 1, 1]), bytes([52, 0])])
def test_a_bad_overload_counts_as_none(overload: bytes) -> None:
    packet = parse_dhcp(with_raw_options(overload, bytes([53, 1, 1, 255]), file=b"\x0c\2pc\xff"))
    assert packet.options.get(HOST_NAME) is None


@pytest.mark.parametrize("option", [bytes([53, 1, 99]), bytes([53, 2, 1, 1]), bytes([50, 3, 1, 1, 1]), bytes([54, 0])])
def test_a_bad_essential_option_is_a_wire_error(option: bytes) -> None:
    with pytest.raises(WireError, match="option 5"):
        parse_dhcp(with_raw_options(option))


def test_another_bad_option_counts_as_absent_and_says_why() -> None:
    packet = parse_dhcp(with_raw_options(bytes([53, 1, 1, 51, 3, 0, 0, 1, 93, 1, 7, 6, 5, 1, 2, 3, 4, 5])))
    assert packet.options.get(LEASE_TIME) is None
    assert packet.options.get(CLIENT_ARCH) is None
    assert packet.options.get(DNS_SERVERS) is None
    assert set(packet.malformed) == {51, 93, 6}
    assert "multiple of 4" in packet.malformed[6]


def test_text_loses_its_nul_and_keeps_strange_bytes_visible() -> None:
    packet = parse_dhcp(with_raw_options(bytes([53, 1, 1, 12, 4]), b"a\xe4b\0"))
    assert packet.options.get(HOST_NAME) == r"a\xe4b"


@pytest.mark.parametrize(
    ("raw", "classes"),
    [
        (b"iPXE", (b"iPXE",)),  # as iPXE sends it, not as RFC 3004 says
        (b"\4iPXE", (b"iPXE",)),
        (b"\3abc\4iPXE", (b"abc", b"iPXE")),
        (b"\x09abc", (b"\x09abc",)),
        (b"\0", (b"\0",)),
    ],
)
def test_user_classes_are_read_in_both_forms(raw: bytes, classes: tuple[bytes, ...]) -> None:
    assert USER_CLASS.parse(raw) == classes


def test_the_summary_names_what_matters_and_hides_control_characters() -> None:
    packet = parse_dhcp(with_raw_options(bytes([53, 1, 1, 12, 3]), b"a\nb"))
    assert packet.summary().startswith("DISCOVER, 52:54:00:00:00:01, xid 12345678")
    assert "\n" not in packet.summary()


def test_every_known_option_cites_its_source() -> None:
    assert all(spec.source.startswith("RFC ") and REGISTRY[code] is spec for code, spec in REGISTRY.items())


def test_get_reads_what_with_option_wrote() -> None:
    options = Options().with_option(MESSAGE_TYPE, MessageType.ACK).with_option(CLIENT_MACHINE_ID, MACHINE_ID)
    assert options.get(MESSAGE_TYPE) is MessageType.ACK
    assert CLIENT_MACHINE_ID in options
    assert LEASE_TIME not in options


def test_a_system_uuid_reads_as_dmidecode_prints_it() -> None:
    raw = bytes.fromhex("0033221100554477668899aabbccddeeff")
    assert system_uuid(raw) == "00112233-4455-6677-8899-aabbccddeeff"
    assert system_uuid(raw[:-1]) == ""
    assert system_uuid(b"\1" + raw[1:]) == ""


@pytest.mark.parametrize("payload", [b"", b"x", b"\xff" * 301])
def test_scapy_reads_our_frame_and_finds_its_checksums_right(payload: bytes) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    source, destination = IPv4Address("10.77.0.1"), IPv4Address("10.77.0.100")
    frame = build_udp_frame(
        payload,
        source_mac=b"\2\0\0\0\0\1",
        destination_mac=b"\2\0\0\0\0\2",
        source=source,
        source_port=67,
        destination=destination,
        destination_port=68,
    )
    ours = Ether(frame)
    assert (ours.src, ours.dst) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    assert (ours[IP].src, ours[IP].dst, ours[UDP].sport, ours[UDP].dport) == ("10.77.0.1", "10.77.0.100", 67, 68)
    theirs = Ether(src=ours.src, dst=ours.dst) / IP(src=str(source), dst=str(destination), id=0, flags="DF")
    theirs = theirs / UDP(sport=67, dport=68) / payload
    assert bytes(theirs) == frame


def a_long_packet(option_bytes: int, count: int, **fields: object) -> DhcpPacket:
    raw = {MESSAGE_TYPE.code: b"\5", **{200 + number: bytes([number]) * option_bytes for number in range(count)}}
    return DhcpPacket(op=2, xid=1, chaddr=b"\2\0\0\0\0\1", options=Options(raw), **fields)  # type: ignore[arg-type]


def test_an_answer_that_is_too_long_goes_to_file_and_sname_and_says_so() -> None:
    packet = a_long_packet(50, 8)
    assert len(build_dhcp(packet)) > 548
    short = build_dhcp(packet, 548)
    assert len(short) <= 548
    read = parse_dhcp(short)
    assert read.options == packet.options
    assert read.file == read.sname == b""
    body = short[HEADER_BYTES:]
    assert bytes([52, 1, 3]) in body
    assert short[108:109] == bytes([205])  # the least important ones are out there
    assert short[44:45] == bytes([207])


def test_what_finds_no_room_is_left_out_from_the_end_and_a_boot_file_stays() -> None:
    packet = a_long_packet(50, 8, file=b"bios/core.0")
    read = parse_dhcp(build_dhcp(packet, 548))
    assert list(read.options.raw) == [53, 200, 201, 202, 203, 204, 205]
    assert read.file == b"bios/core.0"


def test_the_relays_option_is_last_and_whole_however_long_the_others_are() -> None:
    packet = a_long_packet(50, 8, sname=b"s", file=b"f")
    packet = replace(packet, options=Options({RELAY_AGENT.code: b"\1\4port", **packet.options.raw}))
    data = build_dhcp(packet, 548)
    assert data.endswith(b"\x52\6\1\4port\xff")
    assert len(data) <= 548
    too_long = replace(packet, options=packet.options.with_option(RELAY_AGENT, bytes(500)))
    assert RELAY_AGENT not in parse_dhcp(build_dhcp(too_long, 548)).options


@pytest.mark.parametrize(
    ("asked", "limit"), [(None, 548), (0, 548), (576, 548), (590, 562), (1260, 1232), (1500, 1472), (65535, 1472)]
)
def test_the_size_that_a_client_takes_counts_its_headers_and_has_a_floor(asked: int | None, limit: int) -> None:
    packet = a_discover()
    if asked is not None:
        packet = replace(packet, options=packet.options.with_option(MAX_MESSAGE_BYTES, asked))
    assert message_limit(packet) == limit


def test_options_of_file_are_read_before_those_of_sname_and_after_their_own_place() -> None:
    data = with_raw_options(
        bytes([52, 1, 3, 53, 1, 1, 12, 1]), b"a\xff", file=b"\x0c\1b\xff\x0c\1x", sname=b"\x0c\1c\xff"
    )
    assert parse_dhcp(data).options.get(HOST_NAME) == "abc"


def test_an_overload_inside_an_overloaded_field_leads_nowhere() -> None:
    packet = parse_dhcp(with_raw_options(bytes([52, 1, 1, 53, 1, 1, 255]), file=b"\x34\1\3\xff", sname=b"\x0c\2pc\xff"))
    assert packet.options.get(HOST_NAME) is None
    assert packet.sname == b"\x0c\2pc\xff"


def test_a_cut_option_in_an_overloaded_field_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="cut"):
        parse_dhcp(with_raw_options(bytes([52, 1, 1, 53, 1, 1, 255]), file=b"\0" * 126 + b"\x0c\2"))


def test_pad_and_end_cannot_be_written_as_options() -> None:
    for code in (0, 255):
        with pytest.raises(ValueError, match="no option"):
            build_dhcp(replace(a_discover(), options=Options({code: b"x"})))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"\1\3abc\5\4\n\0\0\0", {1: b"abc", 5: b"\n\0\0\0"}),
        (b"\1\3ab", {}),
        (b"\1\1a\2", {1: b"a"}),
        (b"\1\1a\1\1b", {1: b"a"}),
        (b"", {}),
    ],
)
def test_sub_options_of_a_relay_are_read_as_far_as_they_are_whole(raw: bytes, found: dict[int, bytes]) -> None:
    assert relay_sub_options(raw) == found
