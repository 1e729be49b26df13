"""DHCP packets as values: bytes in, `DhcpPacket` out, and back (RFC 2131, section 2). Pure.

`parse_dhcp` raises WireError and nothing else, whatever the bytes are. It tolerates what real firmware does: a missing
End option, options spread over `file` and `sname` (overload, RFC 2131 section 4.1), a value in several parts (RFC
3396), text that ends with NUL, packets shorter than BOOTP's 300 bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, TypeVar

from construct import Byte, Bytes, ConstructError, Int16ub, Int32ub, Struct

from netboot.errors import WireError
from netboot.wire.dhcp_options import (
    CLIENT_ARCH,
    END,
    HOST_NAME,
    MAX_OPTION_BYTES,
    MESSAGE_TYPE,
    OVERLOAD,
    PAD,
    REGISTRY,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    VENDOR_CLASS,
    MessageType,
    OptionSpec,
)

T = TypeVar("T")

BOOTREQUEST = 1
BOOTREPLY = 2
ETHERNET = 1
ETHERNET_ADDRESS_BYTES = 6
BROADCAST_FLAG = 0x8000
MAGIC_COOKIE = bytes([99, 130, 83, 99])
MIN_BOOTP_BYTES = 300
"""Replies are padded to it: old ROMs and relays drop shorter ones (RFC 1542, section 2.1)."""
NO_ADDRESS = IPv4Address(0)

_HEADER = Struct(
    "op" / Byte,
    "htype" / Byte,
    "hlen" / Byte,
    "hops" / Byte,
    "xid" / Int32ub,
    "secs" / Int16ub,
    "flags" / Int16ub,
    "ciaddr" / Bytes(4),
    "yiaddr" / Bytes(4),
    "siaddr" / Bytes(4),
    "giaddr" / Bytes(4),
    "chaddr" / Bytes(16),
    "sname" / Bytes(64),
    "file" / Bytes(128),
    "cookie" / Bytes(4),
).compile()
HEADER_BYTES = 240


@dataclass(frozen=True, slots=True)
class Options:
    """Options by code, as bytes, in the order they were set. Known ones are read with `get`."""

    raw: Mapping[int, bytes] = field(default_factory=dict)

    def get(self, spec: OptionSpec[T]) -> T | None:
        """The value, or None when the option is absent. Of a parsed packet it never raises."""
        raw = self.raw.get(spec.code)
        return None if raw is None else spec.parse(raw)

    def with_option(self, spec: OptionSpec[T], value: T) -> "Options":
        """A copy that has this option too (or instead)."""
        return Options({**self.raw, spec.code: spec.build(value)})

    def __contains__(self, spec: object) -> bool:
        return isinstance(spec, OptionSpec) and spec.code in self.raw


@dataclass(frozen=True, slots=True)
class DhcpPacket:
    """One DHCP message. Field names are the specification's (RFC 2131, section 2)."""

    op: int
    xid: int
    chaddr: bytes
    """`hlen` bytes."""
    htype: int = ETHERNET
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = NO_ADDRESS
    yiaddr: IPv4Address = NO_ADDRESS
    siaddr: IPv4Address = NO_ADDRESS
    giaddr: IPv4Address = NO_ADDRESS
    sname: bytes = b""
    file: bytes = b""
    """Both without their NUL padding; empty when they carried options."""
    options: Options = field(default_factory=Options)
    malformed: Mapping[int, str] = field(default_factory=dict)
    """Options that were left out because their value does not parse: code and why."""

    @property
    def message_type(self) -> MessageType | None:
        """None: a BOOTP packet."""
        return self.options.get(MESSAGE_TYPE)

    @property
    def mac(self) -> str:
        """The hardware address in lower case with colons."""
        return self.chaddr.hex(":")

    @property
    def wants_broadcast(self) -> bool:
        return bool(self.flags & BROADCAST_FLAG)

    def summary(self) -> str:
        """One line for a person."""
        kind = self.message_type
        parts = [kind.name if kind else "BOOTP", self.mac, f"xid {self.xid:08x}"]
        for name, address in (("ciaddr", self.ciaddr), ("yiaddr", self.yiaddr), ("giaddr", self.giaddr)):
            if address != NO_ADDRESS:
                parts.append(f"{name} {address}")
        shown: tuple[OptionSpec[Any], ...] = (
            REQUESTED_ADDRESS,
            SERVER_IDENTIFIER,
            HOST_NAME,
            VENDOR_CLASS,
            CLIENT_ARCH,
        )
        for spec in shown:
            value = self.options.get(spec)
            if value is not None:
                parts.append(f"{spec.name} {value!r}" if isinstance(value, str) else f"{spec.name} {value}")
        if self.file:
            parts.append(f"file {self.file.decode('ascii', 'backslashreplace')}")
        return ", ".join(parts)


def parse_dhcp(data: bytes) -> DhcpPacket:
    """Read a datagram of port 67, 68 or 4011."""
    if len(data) < HEADER_BYTES:
        raise WireError(f"DHCP packet of {len(data)} bytes: shorter than its header")
    try:
        header = _HEADER.parse(data[:HEADER_BYTES])
    except ConstructError as error:  # the length is right, so not reached; kept so that only WireError leaves
        raise WireError(f"DHCP header: {error}") from None
    if header.cookie != MAGIC_COOKIE:
        raise WireError("no DHCP magic cookie: a BOOTP packet or junk")
    if header.op not in (BOOTREQUEST, BOOTREPLY):
        raise WireError(f"op {header.op} is neither request nor reply")
    if header.hlen > len(header.chaddr):
        raise WireError(f"hardware address of {header.hlen} bytes")
    collected: dict[int, bytes] = {}
    _collect(data[HEADER_BYTES:], collected)
    overload = _overload(collected)
    if overload & 1:
        _collect(header.file, collected)
    if overload & 2:
        _collect(header.sname, collected)
    options, malformed = _check_values(collected)
    return DhcpPacket(
        op=header.op,
        xid=header.xid,
        chaddr=header.chaddr[: header.hlen],
        htype=header.htype,
        hops=header.hops,
        secs=header.secs,
        flags=header.flags,
        ciaddr=IPv4Address(header.ciaddr),
        yiaddr=IPv4Address(header.yiaddr),
        siaddr=IPv4Address(header.siaddr),
        giaddr=IPv4Address(header.giaddr),
        sname=b"" if overload & 2 else header.sname.split(b"\0", 1)[0],
        file=b"" if overload & 1 else header.file.split(b"\0", 1)[0],
        options=Options(options),
        malformed=malformed,
    )


def build_dhcp(packet: DhcpPacket) -> bytes:
    """The bytes of a packet, padded to 300. ValueError when a field does not fit."""
    if len(packet.sname) > 64 or len(packet.file) > 128 or len(packet.chaddr) > 16:
        raise ValueError("sname, file or chaddr is too long for a DHCP packet")
    header: bytes = _HEADER.build(
        {
            "op": packet.op,
            "htype": packet.htype,
            "hlen": len(packet.chaddr),
            "hops": packet.hops,
            "xid": packet.xid,
            "secs": packet.secs,
            "flags": packet.flags,
            "ciaddr": packet.ciaddr.packed,
            "yiaddr": packet.yiaddr.packed,
            "siaddr": packet.siaddr.packed,
            "giaddr": packet.giaddr.packed,
            "chaddr": packet.chaddr.ljust(16, b"\0"),
            "sname": packet.sname.ljust(64, b"\0"),
            "file": packet.file.ljust(128, b"\0"),
            "cookie": MAGIC_COOKIE,
        }
    )
    body = b"".join(_build_option(code, value) for code, value in packet.options.raw.items())
    return (header + body + bytes([END])).ljust(MIN_BOOTP_BYTES, bytes([PAD]))


def _build_option(code: int, value: bytes) -> bytes:
    parts = [value[start : start + MAX_OPTION_BYTES] for start in range(0, len(value), MAX_OPTION_BYTES)] or [b""]
    return b"".join(bytes([code, len(part)]) + part for part in parts)


def _walk(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and value of each option. By hand: the loop must stop at End, step over Pad and refuse a cut value."""
    position = 0
    while position < len(area):
        code = area[position]
        position += 1
        if code == PAD:
            continue
        if code == END:
            return
        if position >= len(area):
            raise WireError(f"option {code} is cut before its length")
        length = area[position]
        value = area[position + 1 : position + 1 + length]
        if len(value) != length:
            raise WireError(f"option {code} of {length} bytes is cut after {len(value)}")
        yield code, value
        position += 1 + length


def _collect(area: bytes, collected: dict[int, bytes]) -> None:
    for code, value in _walk(area):
        collected[code] = collected.get(code, b"") + value  # RFC 3396: parts of one option are joined


def _overload(collected: Mapping[int, bytes]) -> int:
    raw = collected.get(OVERLOAD.code)
    if raw is None:
        return 0
    if len(raw) != 1 or not 1 <= raw[0] <= 3:
        return 0  # malformed: counts as absent, `file` and `sname` are what they look like
    return raw[0]


def _check_values(collected: Mapping[int, bytes]) -> tuple[dict[int, bytes], dict[int, str]]:
    options: dict[int, bytes] = {}
    malformed: dict[int, str] = {}
    for code, raw in collected.items():
        if code == OVERLOAD.code:
            continue  # done with
        spec = REGISTRY.get(code)
        if spec is not None:
            try:
                spec.parse(raw)
            except ValueError as error:
                if spec.essential:
                    raise WireError(f"option {code} ({spec.name}): {error}") from None
                malformed[code] = str(error)
                continue
        options[code] = raw
    return options, malformed
