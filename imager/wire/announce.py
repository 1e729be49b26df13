"""How a sender of a file tells the network of itself, by a datagram to the discovery group. Pure: no I/O."""

from dataclasses import dataclass

from construct import Array, Const, ConstructError, Int8ub, Int16ub, Int32ub, PascalString, Struct, Terminated

from imager.errors import PacketError
from imager.wire.session import MAGIC, VERSION, Kind, Reject

_FORMAT = Struct(
    "magic" / Const(MAGIC, Int8ub),
    "kind" / Const(VERSION << 4 | Kind.ANNOUNCE, Int8ub),
    "catalogue_port" / Int16ub,
    "session" / Int32ub,
    "data_port" / Int16ub,
    "control_port" / Int16ub,
    "group" / Array(4, Int8ub),
    "name" / PascalString(Int8ub, "utf8"),
    Terminated,
)


@dataclass(frozen=True, slots=True)
class Announce:
    """A file is on offer; `roomcast receive` finds it by this. The sender is where the datagram comes from."""

    session: int
    catalogue_port: int
    """TCP port of the sender that gives names, lengths and hashes."""
    data_port: int
    control_port: int
    group: str
    """IPv4 multicast group of the data."""
    name: str


def parse_announce(data: bytes) -> Announce:
    """A datagram of the discovery group. Raises PacketError and nothing else."""
    try:
        parsed = _FORMAT.parse(data)
    except (ConstructError, UnicodeDecodeError) as error:
        raise PacketError(f"{Reject.NOT_OURS}: {type(error).__name__}") from error
    group = ".".join(str(part) for part in parsed.group)
    return Announce(
        parsed.session, parsed.catalogue_port, parsed.data_port, parsed.control_port, group, str(parsed.name)
    )


def build_announce(announce: Announce) -> bytes:
    return bytes(
        _FORMAT.build(
            {
                "session": announce.session,
                "catalogue_port": announce.catalogue_port,
                "data_port": announce.data_port,
                "control_port": announce.control_port,
                "group": [int(part) for part in announce.group.split(".")],
                "name": announce.name.encode()[:255].decode(errors="ignore"),
            }
        )
    )
