"""MLD queries, read from frames of any version and built as version 2 (RFC 3810, section 5.1). Pure."""

import struct
from ipaddress import IPv6Address

from netboot.wire.frame import checksum
from netboot.wire.igmp import Query

ALL_NODES = IPv6Address("ff02::1")
_QUERY = 130
_ROBUSTNESS = 2
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_IPV6_TYPE = 0x86DD
_HOP_BY_HOP, _ICMPV6 = 0, 58
_ROUTER_ALERT = bytes([_ICMPV6, 0]) + bytes.fromhex("05020000 0100")
"""A header of hop-by-hop options (RFC 8200, section 4.3) with that of RFC 2711: routers look into the packet."""
_IPV6 = struct.Struct("!IHBB16s16s")
_PSEUDO = struct.Struct("!16s16sI3xB")
_MESSAGE = struct.Struct("!BBHHH16sBBH")
"""Type, code, checksum, maximal response time in ms, reserved, group, flags and robustness, interval, sources."""
_OPTIONS_AT = 14 + _IPV6.size


def read_query(frame: bytes) -> Query | None:
    """An MLD query out of an Ethernet frame that holds IPv6; None for another message, or a broken one.

    One from no address of the link is nobody's (RFC 3810, section 5.1.14).
    """
    if len(frame) < _OPTIONS_AT + len(_ROUTER_ALERT) or frame[20] != _HOP_BY_HOP or frame[_OPTIONS_AT] != _ICMPV6:
        return None
    end = _OPTIONS_AT + int.from_bytes(frame[18:20], "big")
    message = frame[_OPTIONS_AT + (frame[_OPTIONS_AT + 1] + 1) * 8 : end]
    source = IPv6Address(frame[22:38])
    if len(message) < 24 or message[0] != _QUERY or not source.is_link_local:
        return None
    return Query(source, frame[6:12], 2 if len(message) >= _MESSAGE.size else 1)  # section 8.1: by their length


def build_general_query(mac: bytes, source: IPv6Address, response_s: float, interval_s: int) -> bytes:
    """A frame that asks everybody for all groups, to be answered within `response_s` (at most 32.7)."""
    message = _MESSAGE.pack(_QUERY, 0, 0, round(response_s * 1000), 0, bytes(16), _ROBUSTNESS, interval_s, 0)
    ends = source.packed, ALL_NODES.packed
    total = checksum(_PSEUDO.pack(*ends, len(message), _ICMPV6) + message)
    message = message[:2] + struct.pack("!H", total) + message[4:]
    ip = _IPV6.pack(6 << 28, len(_ROUTER_ALERT) + len(message), _HOP_BY_HOP, 1, *ends) + _ROUTER_ALERT
    return _ALL_NODES_MAC + mac + struct.pack("!H", _IPV6_TYPE) + ip + message
