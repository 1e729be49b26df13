"""An Ethernet frame with IPv4 and UDP around a payload: for a client that has no address yet. Pure.

Sources: IEEE 802.3 (Ethernet II), RFC 791 (IPv4), RFC 768 (UDP), RFC 1071 (the checksum).
"""

import struct
from ipaddress import IPv4Address

from construct import Byte, Bytes, Const, Int16ub, Struct

_ETHERNET = Struct("destination" / Bytes(6), "source" / Bytes(6), "type" / Const(0x0800, Int16ub))
_IPV4 = Struct(
    "version_and_words" / Const(0x45, Byte),
    "service" / Const(0, Byte),
    "total_bytes" / Int16ub,
    "identification" / Const(0, Int16ub),
    "fragment" / Const(0x4000, Int16ub),  # do not fragment
    "ttl" / Const(64, Byte),
    "protocol" / Const(17, Byte),
    "checksum" / Int16ub,
    "source" / Bytes(4),
    "destination" / Bytes(4),
)
_UDP = Struct("source_port" / Int16ub, "destination_port" / Int16ub, "total_bytes" / Int16ub, "checksum" / Int16ub)
_UDP_BYTES = 8
_IPV4_BYTES = 20


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
    ports = {"source_port": source_port, "destination_port": destination_port, "total_bytes": udp_bytes}
    pseudo_header = source.packed + destination.packed + struct.pack("!HH", 17, udp_bytes)
    udp_sum = checksum(pseudo_header + _UDP.build({**ports, "checksum": 0}) + payload)
    udp: bytes = _UDP.build({**ports, "checksum": udp_sum or 0xFFFF})  # 0 means "no checksum" (RFC 768)
    fields = {"total_bytes": _IPV4_BYTES + udp_bytes, "source": source.packed, "destination": destination.packed}
    ip_sum = checksum(_IPV4.build({**fields, "checksum": 0}))
    ip: bytes = _IPV4.build({**fields, "checksum": ip_sum})
    ethernet: bytes = _ETHERNET.build({"destination": destination_mac, "source": source_mac})
    return ethernet + ip + udp + payload
