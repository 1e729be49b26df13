"""IGMP queries, read from frames of any version and built as version 3 (RFC 3376, section 4.1). Pure."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netboot.wire.frame import checksum

ALL_SYSTEMS = IPv4Address("224.0.0.1")
MAX_INTERVAL_S = 127
"""Longer ones are coded as floating point (RFC 3376, section 4.1.7), which nobody here needs."""
_QUERY = 0x11
_ROBUSTNESS = 2
_ALL_SYSTEMS_MAC = bytes.fromhex("01005e000001")
_IPV4_TYPE = 0x0800
_IGMP_PROTOCOL = 2
_INTERNETWORK_CONTROL = 0xC0
_ROUTER_ALERT = bytes.fromhex("94040000")
"""RFC 2113: routers look into the packet."""
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_MESSAGE = struct.Struct("!BBH4sBBH")
"""Type, maximal response time, checksum, group, flags and robustness, interval, sources."""


@dataclass(frozen=True, slots=True)
class Query:
    """Who asked, by IGMP or MLD."""

    source: IPv4Address | IPv6Address
    mac: bytes
    version: int


def read_query(frame: bytes) -> Query | None:
    """An IGMP query out of an Ethernet frame that holds IPv4; None for another message, or a broken one."""
    header_bytes = (frame[14] & 15) * 4 if len(frame) >= 34 else 0
    message = frame[14 + header_bytes : 14 + int.from_bytes(frame[16:18], "big")]
    if header_bytes < 20 or len(message) < 8 or message[0] != _QUERY:
        return None
    # RFC 3376, section 7.1: told apart by their length, and IGMPv1 by a response time of 0
    version = 3 if len(message) >= 12 else 2 if message[1] else 1
    return Query(IPv4Address(frame[26:30]), frame[6:12], version)


def build_general_query(mac: bytes, source: IPv4Address, response_s: float, interval_s: int) -> bytes:
    """A frame that asks everybody for all groups, to be answered within `response_s` (at most 12.7)."""
    fields = _QUERY, round(response_s * 10), 0, bytes(4), _ROBUSTNESS, interval_s, 0
    message = _MESSAGE.pack(*fields)
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    ends = source.packed, ALL_SYSTEMS.packed
    length = _IPV4.size + len(_ROUTER_ALERT) + len(message)
    head = 0x46, _INTERNETWORK_CONTROL, length, 0, 0, 1, _IGMP_PROTOCOL
    total = checksum(_IPV4.pack(*head, 0, *ends) + _ROUTER_ALERT)
    ip = _IPV4.pack(*head, total, *ends) + _ROUTER_ALERT
    return _ALL_SYSTEMS_MAC + mac + struct.pack("!H", _IPV4_TYPE) + ip + message
