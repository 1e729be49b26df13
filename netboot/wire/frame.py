"""An Ethernet frame with IPv4 and UDP around a payload: to a client that has no address yet, or overheard. Pure.

Sources: IEEE 802.3 (Ethernet II), RFC 791 (IPv4), RFC 768 (UDP), RFC 1071 (the checksum).
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.errors import WireError

_ETHERNET = struct.Struct("!6s6sH")
"""Destination, source, type."""
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
"""Version and words, service, length, identification, fragment, TTL, protocol, checksum, source, destination."""
_UDP = struct.Struct("!HHHH")
"""Source port, destination port, length, checksum."""
_UDP_BYTES = 8
_IPV4_BYTES = 20
_ETHERNET_BYTES = 14
_IPV4_TYPE = 0x0800
_UDP_PROTOCOL = 17
_VERSION_AND_WORDS = 0x45
_DO_NOT_FRAGMENT = 0x4000
_TTL = 64
_FRAGMENT = 0x3FFF
"""More fragments, or an offset."""


@dataclass(frozen=True, slots=True)
class UdpFrame:
    """What a frame says and carries."""

    source_mac: bytes
    source: IPv4Address
    source_port: int
    payload: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def build_udp_frame(
    payload: bytes,
    *,
    source_mac: bytes,
    destination_mac: bytes,
    source: IPv4Address,
    source_port: int,
    destination: IPv4Address,
    destination_port: int,
) -> bytes:
    """A whole frame, without the padding and check sequence that the interface adds."""
    udp_bytes = _UDP_BYTES + len(payload)
    ends = source.packed, destination.packed
    ports = source_port, destination_port, udp_bytes
    pseudo_header = b"".join(ends) + struct.pack("!HH", _UDP_PROTOCOL, udp_bytes)
    udp_sum = checksum(pseudo_header + _UDP.pack(*ports, 0) + payload)
    udp = _UDP.pack(*ports, udp_sum or 0xFFFF)  # 0 means "no checksum" (RFC 768)
    head = _VERSION_AND_WORDS, 0, _IPV4_BYTES + udp_bytes, 0, _DO_NOT_FRAGMENT, _TTL, _UDP_PROTOCOL
    ip = _IPV4.pack(*head, checksum(_IPV4.pack(*head, 0, *ends)), *ends)
    return _ETHERNET.pack(destination_mac, source_mac, _IPV4_TYPE) + ip + udp + payload


def parse_udp_frame(frame: bytes) -> UdpFrame:
    """An untagged frame with a whole UDP datagram. Checksums are not looked at: the kernel gives out frames without.

    Raises WireError for everything else.
    """
    if len(frame) < _ETHERNET_BYTES + _IPV4_BYTES or int.from_bytes(frame[12:14], "big") != _IPV4_TYPE:
        raise WireError("not an IPv4 frame")
    ip = frame[_ETHERNET_BYTES:]
    header_bytes, total_bytes = (ip[0] & 0x0F) * 4, int.from_bytes(ip[2:4], "big")
    if ip[0] >> 4 != 4 or header_bytes < _IPV4_BYTES or ip[9] != _UDP_PROTOCOL:
        raise WireError("not UDP over IPv4")
    if int.from_bytes(ip[6:8], "big") & _FRAGMENT:
        raise WireError("a fragment")
    udp = ip[header_bytes:total_bytes]
    if total_bytes > len(ip) or len(udp) < _UDP_BYTES:
        raise WireError("a frame that is cut")
    udp_bytes = int.from_bytes(udp[4:6], "big")
    if not _UDP_BYTES <= udp_bytes <= len(udp):
        raise WireError("a datagram longer than its packet")
    source = IPv4Address(ip[12:16])
    return UdpFrame(frame[6:12], source, int.from_bytes(udp[0:2], "big"), udp[_UDP_BYTES:udp_bytes])
