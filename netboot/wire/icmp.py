"""ICMP echo: a request, and whose reply a packet is (RFC 792). Pure."""

from construct import Byte, Const, ConstructError, Int16ub, Struct

from netboot.errors import WireError
from netboot.wire.frame import checksum

ECHO_REPLY = 0
_MIN_IPV4_BYTES = 20
_ECHO = Struct("type" / Byte, "code" / Const(0, Byte), "checksum" / Int16ub, "identifier" / Int16ub, "number" / Int16ub)


def build_echo_request(identifier: int, number: int) -> bytes:
    """An ICMP message without data."""
    fields = {"type": 8, "identifier": identifier, "number": number}
    message: bytes = _ECHO.build({**fields, "checksum": checksum(_ECHO.build({**fields, "checksum": 0}))})
    return message


def parse_echo_reply(packet: bytes) -> tuple[int, int]:
    """Identifier and number of an echo reply, as a raw socket gives it: with its IPv4 header. Raises WireError."""
    start = (packet[0] & 0x0F) * 4 if packet else 0
    if start < _MIN_IPV4_BYTES:
        raise WireError(f"no IPv4 packet of {len(packet)} bytes")
    try:
        found = _ECHO.parse(packet[start:])
    except ConstructError as error:
        raise WireError(f"no ICMP echo: {type(error).__name__}") from None
    if found.type != ECHO_REPLY:
        raise WireError(f"ICMP type {found.type} is not an echo reply")
    return found.identifier, found.number
