"""ARP over Ethernet: a probe for an address, and what others say (RFC 826, RFC 5227). Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from construct import Bytes, Const, ConstructError, Int16ub, Struct

from netboot.errors import WireError

ETHERTYPE_ARP = 0x0806
REQUEST = 1

_BROADCAST = b"\xff" * 6
_FRAME = Struct(
    "destination" / Bytes(6),
    "source" / Bytes(6),
    "type" / Const(ETHERTYPE_ARP, Int16ub),
    "hardware" / Const(1, Int16ub),
    "protocol" / Const(0x0800, Int16ub),
    "lengths" / Const(bytes([6, 4])),
    "operation" / Int16ub,
    "sender_mac" / Bytes(6),
    "sender" / Bytes(4),
    "target_mac" / Bytes(6),
    "target" / Bytes(4),
).compile()
_FRAME_BYTES = 42


@dataclass(frozen=True, slots=True)
class ArpPacket:
    """What one ARP frame says. Requests and replies are alike here: both name their sender."""

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    """0.0.0.0 in a probe: its sender does not claim an address yet."""
    target: IPv4Address


def build_arp_probe(source_mac: bytes, address: IPv4Address) -> bytes:
    """Ask everybody who has `address`, without a claim to it (RFC 5227, section 2.1.1): a whole Ethernet frame."""
    frame: bytes = _FRAME.build(
        {
            "destination": _BROADCAST,
            "source": source_mac,
            "operation": REQUEST,
            "sender_mac": source_mac,
            "sender": bytes(4),
            "target_mac": bytes(6),
            "target": address.packed,
        }
    )
    return frame


def parse_arp(frame: bytes) -> ArpPacket:
    """Read an Ethernet frame. Raises WireError when it is not ARP for IPv4."""
    if len(frame) < _FRAME_BYTES:  # the compiled parser does not look
        raise WireError(f"no ARP frame: {len(frame)} bytes")
    try:
        found = _FRAME.parse(frame)
    except ConstructError as error:
        raise WireError(f"no ARP frame for IPv4: {type(error).__name__}") from None
    return ArpPacket(found.operation, found.sender_mac, IPv4Address(found.sender), IPv4Address(found.target))
