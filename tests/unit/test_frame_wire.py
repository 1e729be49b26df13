"""Overheard frames, against scapy's, and against noise."""

import random
from ipaddress import IPv4Address

import pytest

from netboot.errors import WireError
from netboot.wire.frame import UdpFrame, build_udp_frame, parse_udp_frame

OURS = build_udp_frame(
    b"payload",
    source_mac=bytes.fromhex("525400000001"),
    destination_mac=b"\xff" * 6,
    source=IPv4Address("10.77.0.1"),
    source_port=67,
    destination=IPv4Address("255.255.255.255"),
    destination_port=68,
)


def test_what_is_built_is_read_back_past_the_padding_of_a_short_frame() -> None:
    read = parse_udp_frame(OURS + bytes(18))
    assert read == UdpFrame(bytes.fromhex("525400000001"), IPv4Address("10.77.0.1"), 67, b"payload")


def test_frame_of_scapy_with_ip_options_is_read() -> None:
    from scapy.layers.inet import IP, UDP, IPOption_NOP
    from scapy.layers.l2 import Ether

    options = [IPOption_NOP(), IPOption_NOP()]
    frame = Ether(src="52:54:00:00:00:02") / IP(src="10.77.0.9", options=options) / UDP(sport=67, dport=68) / b"abc"
    assert parse_udp_frame(bytes(frame)) == UdpFrame(
        bytes.fromhex("525400000002"), IPv4Address("10.77.0.9"), 67, b"abc"
    )


@pytest.mark.parametrize(
    ("at", "byte", "why"),
    [(12, 0x86, "IPv4"), (14, 0x65, "UDP over"), (23, 6, "UDP over"), (20, 0x20, "fragment"), (17, 255, "cut")],
)
def test_frame_that_is_something_else_is_told_apart(at: int, byte: int, why: str) -> None:
    changed = bytearray(OURS)
    changed[at] = byte
    with pytest.raises(WireError, match=why):
        parse_udp_frame(bytes(changed))


def test_noise_raises_our_error_alone() -> None:
    chance = random.Random(11)
    for _ in range(3000):
        noise = bytearray(OURS[: chance.randrange(len(OURS) + 1)])
        for _ in range(chance.randrange(4)):
            if noise:
                noise[chance.randrange(len(noise))] = chance.randrange(256)
        try:
            parse_udp_frame(bytes(noise))
        except WireError:
            continue
