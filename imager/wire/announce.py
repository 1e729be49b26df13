"""How a sender of a file tells the network of itself, by a datagram to the discovery group. Pure: no I/O."""

from dataclasses import dataclass
from ipaddress import ip_address

from construct import (
    Bytes,
    Const,
    Construct,
    ConstructError,
    Int8ub,
    Int16ub,
    Int32ub,
    PascalString,
    Struct,
    Terminated,
)

from imager.errors import PacketError
from imager.wire.session import MAGIC, VERSION, Kind, Reject


def _format(kind: Kind, group_bytes: int) -> Construct:
    return Struct(
        "magic" / Const(MAGIC, Int8ub),
        "kind" / Const(VERSION << 4 | kind, Int8ub),
        "catalogue_port" / Int16ub,
        "session" / Int32ub,
        "data_port" / Int16ub,
        "control_port" / Int16ub,
        "group" / Bytes(group_bytes),
        "name" / PascalString(Int8ub, "utf8"),
        Terminated,
    )


_FORMATS = {4: _format(Kind.ANNOUNCE, 4), 6: _format(Kind.ANNOUNCE6, 16)}
"""By the IP version of the data's group."""


@dataclass(frozen=True, slots=True)
class Announce:
    """A file is on offer; `roomcast receive` finds it by this. The sender is where the datagram comes from."""

    session: int
    catalogue_port: int
    """TCP port of the sender that gives names, lengths and hashes."""
    data_port: int
    control_port: int
    group: str
    """Multicast group of the data."""
    name: str


def parse_announce(data: bytes) -> Announce:
    """A datagram of a discovery group. Raises PacketError and nothing else."""
    with_ipv6 = data[1:2] == bytes([VERSION << 4 | Kind.ANNOUNCE6])
    try:
        parsed = _FORMATS[6 if with_ipv6 else 4].parse(data)
    except (ConstructError, UnicodeDecodeError) as error:
        raise PacketError(f"{Reject.NOT_OURS}: {type(error).__name__}") from error
    group = str(ip_address(parsed.group))
    return Announce(
        parsed.session, parsed.catalogue_port, parsed.data_port, parsed.control_port, group, str(parsed.name)
    )


def build_announce(announce: Announce) -> bytes:
    group = ip_address(announce.group)
    return bytes(
        _FORMATS[group.version].build(
            {
                "session": announce.session,
                "catalogue_port": announce.catalogue_port,
                "data_port": announce.data_port,
                "control_port": announce.control_port,
                "group": group.packed,
                "name": announce.name.encode()[:255].decode(errors="ignore"),
            }
        )
    )
