"""DHCP packets as values: bytes in, `DhcpPacket` out, and back (RFC 2131, section 2). Pure.

`parse_dhcp` raises WireError and nothing else, whatever the bytes are. It tolerates what real firmware does: a missing
End option, options spread over `file` and `sname` (overload, RFC 2131 section 4.1), a value in several parts (RFC
3396), text that ends with NUL, packets shorter than BOOTP's 300 bytes.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from sys import intern
from typing import Any, TypeVar

from netboot.errors import WireError
from netboot.wire.dhcp_options import (
    CLIENT_ARCH,
    END,
    HOST_NAME,
    MAX_MESSAGE_BYTES,
    MAX_OPTION_BYTES,
    MESSAGE_TYPE,
    OVERLOAD,
    PAD,
    REGISTRY,
    RELAY_AGENT,
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
_NO_ADDRESS_PACKED = NO_ADDRESS.packed
LEAST_MESSAGE_BYTES = 548
"""What every client takes: 576 less the headers of IP and UDP (RFC 2131, section 2)."""
_IP_UDP_BYTES = 28
_MOST_MESSAGE_BYTES = 1500 - _IP_UDP_BYTES
_SNAME_BYTES = 64
_FILE_BYTES = 128
_OVERLOAD_HEAD = bytes((OVERLOAD.code, 1))

_HEADER = struct.Struct("!4BI2H4s4s4s4s16s64s128s4s")
"""op, htype, hlen, hops; xid; secs, flags; ciaddr, yiaddr, siaddr, giaddr; chaddr; sname; file; the magic cookie.

By `struct`: two of them for every packet of a room that is switched on at once, and it is four times as fast.
"""
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
        """The hardware address in lower case with colons: one string, however many remember it."""
        return intern(self.chaddr.hex(":"))

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
    (op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie) = (
        _HEADER.unpack_from(data)
    )
    if cookie != MAGIC_COOKIE:
        raise WireError("no DHCP magic cookie: a BOOTP packet or junk")
    if op not in (BOOTREQUEST, BOOTREPLY):
        raise WireError(f"op {op} is neither request nor reply")
    if hlen > len(chaddr):
        raise WireError(f"hardware address of {hlen} bytes")
    collected: dict[int, bytes] = {}
    _collect(data[HEADER_BYTES:], collected)
    overload = _overload(collected)
    if overload & 1:
        _collect(file, collected)
    if overload & 2:
        _collect(sname, collected)
    options, malformed = _check_values(collected)
    return DhcpPacket(
        op=op,
        xid=xid,
        chaddr=chaddr[:hlen],
        htype=htype,
        hops=hops,
        secs=secs,
        flags=flags,
        ciaddr=_address(ciaddr),
        yiaddr=_address(yiaddr),
        siaddr=_address(siaddr),
        giaddr=_address(giaddr),
        sname=b"" if overload & 2 else sname.split(b"\0", 1)[0],
        file=b"" if overload & 1 else file.split(b"\0", 1)[0],
        options=Options(options),
        malformed=malformed,
    )


def _address(packed: bytes) -> IPv4Address:
    return NO_ADDRESS if packed == _NO_ADDRESS_PACKED else IPv4Address(packed)  # as most are


def build_dhcp(packet: DhcpPacket, max_bytes: int | None = None) -> bytes:
    """The bytes of a packet, padded to 300. ValueError when a field does not fit.

    Options are written in their order, which is that of their importance, and 82 last. With `max_bytes` (see
    `message_limit`) those that find no room go to `file` and `sname` where these are free (option 52 says so), and are
    left out otherwise.
    """
    if len(packet.sname) > _SNAME_BYTES or len(packet.file) > _FILE_BYTES or len(packet.chaddr) > 16:
        raise ValueError("sname, file or chaddr is too long for a DHCP packet")
    parts = [(code, _build_option(code, value)) for code, value in packet.options.raw.items() if code != OVERLOAD.code]
    body = b"".join([part for code, part in parts if code != RELAY_AGENT.code])
    relay = b"".join([part for code, part in parts if code == RELAY_AGENT.code])
    sname, file = packet.sname, packet.file
    if max_bytes is not None and HEADER_BYTES + len(body) + len(relay) + 1 > max_bytes:
        body, relay, file, sname = _fit(packet, parts, max_bytes - HEADER_BYTES - 1)
    header = _HEADER.pack(
        packet.op,
        packet.htype,
        len(packet.chaddr),
        packet.hops,
        packet.xid,
        packet.secs,
        packet.flags,
        packet.ciaddr.packed,
        packet.yiaddr.packed,
        packet.siaddr.packed,
        packet.giaddr.packed,
        packet.chaddr,
        sname,
        file,
        MAGIC_COOKIE,
    )
    return (header + body + relay + b"\xff").ljust(MIN_BOOTP_BYTES, b"\0")


def message_limit(packet: DhcpPacket) -> int:
    """The most bytes that an answer to this packet may have (RFC 2132, section 9.10).

    Clients differ in whether they count the IP and UDP headers, so we do; less than the least that everybody must take
    counts as that, and no answer is longer than an Ethernet frame takes.
    """
    asked = packet.options.get(MAX_MESSAGE_BYTES)
    if asked is None:
        return LEAST_MESSAGE_BYTES
    return min(max(asked - _IP_UDP_BYTES, LEAST_MESSAGE_BYTES), _MOST_MESSAGE_BYTES)


def _fit(packet: DhcpPacket, parts: list[tuple[int, bytes]], room: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Options area, option 82, `file` and `sname` of a packet that is too long for its receiver."""
    relay = b"".join([part for code, part in parts if code == RELAY_AGENT.code])
    if len(relay) > room // 2:
        relay = b""  # RFC 3046, section 2.2: rather none than a part of it
    room -= len(relay) + len(_OVERLOAD_HEAD) + 1
    body: list[bytes] = []
    in_file: list[bytes] = []
    in_sname: list[bytes] = []
    file_room = 0 if packet.file else _FILE_BYTES - 1
    sname_room = 0 if packet.sname else _SNAME_BYTES - 1
    for code, part in parts:
        if code == RELAY_AGENT.code:
            continue
        if len(part) <= room:
            body.append(part)
            room -= len(part)
        elif len(part) <= file_room:
            in_file.append(part)
            file_room -= len(part)
        elif len(part) <= sname_room:
            in_sname.append(part)
            sname_room -= len(part)
    overload = (1 if in_file else 0) | (2 if in_sname else 0)
    if overload:
        body.append(_OVERLOAD_HEAD + bytes([overload]))
    file = b"".join([*in_file, b"\xff"]) if in_file else packet.file
    sname = b"".join([*in_sname, b"\xff"]) if in_sname else packet.sname
    return b"".join(body), relay, file, sname


def _build_option(code: int, value: bytes) -> bytes:
    if code in (PAD, END):
        raise ValueError(f"{code} is no option")
    if len(value) <= MAX_OPTION_BYTES:
        return bytes((code, len(value))) + value
    parts = [value[start : start + MAX_OPTION_BYTES] for start in range(0, len(value), MAX_OPTION_BYTES)]
    return b"".join([bytes((code, len(part))) + part for part in parts])


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
