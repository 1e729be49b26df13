"""ARP and ICMP echo against scapy's, and against noise."""

import random
from ipaddress import IPv4Address

import pytest

from netboot.errors import WireError
from netboot.wire.arp import build_arp_probe, parse_arp
from netboot.wire.icmp import build_echo_request, parse_echo_reply

MAC = bytes.fromhex("525400000001")
ADDRESS = IPv4Address("10.77.0.100")


def test_a_probe_is_what_scapy_builds_from_rfc_5227() -> None:
    from scapy.layers.l2 import ARP, Ether

    theirs = Ether(src="52:54:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(
        op="who-has", hwsrc="52:54:00:00:00:01", psrc="0.0.0.0", hwdst="00:00:00:00:00:00", pdst=str(ADDRESS)
    )
    assert build_arp_probe(MAC, ADDRESS) == bytes(theirs)


@pytest.mark.parametrize("operation", ["who-has", "is-at"])
def test_the_sender_of_an_arp_packet_is_read(operation: str) -> None:
    from scapy.layers.l2 import ARP, Ether

    theirs = Ether() / ARP(op=operation, hwsrc="52:54:00:00:00:01", psrc="10.77.0.100", pdst="10.77.0.7")
    packet = parse_arp(bytes(theirs) + bytes(18))  # with the padding of a short frame
    assert (packet.sender_mac, packet.sender, packet.target) == (MAC, ADDRESS, IPv4Address("10.77.0.7"))


def test_an_echo_request_is_what_scapy_reads_and_its_reply_is_read() -> None:
    from scapy.layers.inet import ICMP, IP

    request = ICMP(build_echo_request(0x1234, 0xFFFE))
    assert (request.type, request.code, request.id, request.seq) == (8, 0, 0x1234, 0xFFFE)
    assert request.chksum == ICMP(bytes(ICMP(type=8, id=0x1234, seq=0xFFFE))).chksum
    reply = IP(src="10.1.1.1") / ICMP(type="echo-reply", id=7, seq=8) / b"payload"
    assert parse_echo_reply(bytes(reply)) == (7, 8)
    with pytest.raises(WireError, match="type 3"):
        parse_echo_reply(bytes(IP() / ICMP(type=3)))


def test_noise_raises_wire_error_and_nothing_else() -> None:
    rng = random.Random(826)
    arp, echo = build_arp_probe(MAC, ADDRESS), b"\x45" + bytes(19) + bytes(8)
    for _ in range(3000):
        for clean, parse in ((arp, parse_arp), (echo, parse_echo_reply)):
            noise = bytearray(clean)
            for _ in range(rng.randrange(4)):
                noise[rng.randrange(len(noise))] = rng.randrange(256)
            try:
                parse(bytes(noise[: rng.randrange(len(noise) + 1)]))
            except WireError:
                pass
