"""TFTP packets as values: bytes in, a packet out, and back (RFC 1350, RFC 2347). Pure.

By hand: tftpy's decoder lets struct.error, UnicodeDecodeError and assertions out, and takes ten times as long over the
junk of a flood.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from netboot.errors import WireError

MAX_REQUEST_BYTES = 512
"""RFC 2347, section 3: the longest request."""
_HEADER = struct.Struct("!HH")
DATA_HEADER_BYTES = _HEADER.size


class Opcode(IntEnum):
    """RFC 1350, section 5; OACK: RFC 2347."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


_DATA = int(Opcode.DATA)
"""An enum's member takes longer to pack, and this is done for every block."""


class ErrorCode(IntEnum):
    """RFC 1350, appendix; 8: RFC 2347."""

    NOT_DEFINED = 0
    FILE_NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TRANSFER_ID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTIONS_REFUSED = 8


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """RRQ."""

    path: str
    mode: str
    """Lower case: octet, netascii, mail, or what else the client made up."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case (RFC 2347: they are case-insensitive)."""


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """WRQ: parsed in order to refuse it."""

    path: str
    mode: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """DATA; the block number is the one on the wire, 0..65535."""

    block: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """ACK; the block number is the one on the wire, 0..65535."""

    block: int


@dataclass(frozen=True, slots=True)
class Error:
    """ERROR. The code of a peer may be any number."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class OptionAck:
    """OACK."""

    options: Mapping[str, str]


TftpPacket = ReadRequest | WriteRequest | Data | Ack | Error | OptionAck


def parse_tftp(data: bytes) -> TftpPacket:
    """Read one datagram; WireError when it is no TFTP packet, and no other error."""
    if len(data) < 4:
        raise WireError(f"TFTP packet of {len(data)} bytes: shorter than any")
    opcode, number = _HEADER.unpack_from(data)
    match opcode:
        case Opcode.RRQ | Opcode.WRQ:
            return _parse_request(data, opcode)
        case Opcode.DATA:
            return Data(number, data[4:])
        case Opcode.ACK:
            return Ack(number)
        case Opcode.ERROR:
            return Error(number, data[4:].split(b"\0", 1)[0].decode("ascii", "backslashreplace"))
        case Opcode.OACK:
            return OptionAck(_options(_strings(data)))
    raise WireError(f"TFTP opcode {opcode} does not exist")


def _parse_request(data: bytes, opcode: int) -> ReadRequest | WriteRequest:
    if len(data) > MAX_REQUEST_BYTES:
        raise WireError(f"TFTP request of {len(data)} bytes: the longest is {MAX_REQUEST_BYTES}")
    # A request may be padded with NUL bytes after its last string.
    path, mode, *rest = _strings(data.rstrip(b"\0") + b"\0" if data[-1] == 0 else data)
    if not path:
        raise WireError("TFTP request without a file name")
    kind = ReadRequest if opcode == Opcode.RRQ else WriteRequest
    return kind(path, mode.lower(), _options(rest))


def _strings(data: bytes) -> list[str]:
    """The strings after the opcode, each ended by NUL; at least two."""
    *strings, after = data[2:].split(b"\0")
    if after:
        raise WireError("TFTP packet that ends inside a string")
    if len(strings) < 2:
        raise WireError("TFTP packet without a file name and a mode, or an option and its value")
    try:
        return [text.decode("ascii") for text in strings]
    except UnicodeDecodeError:
        raise WireError("TFTP packet with text that is not ASCII") from None


def _options(strings: list[str]) -> dict[str, str]:
    """Names in lower case; of an option that comes twice the first counts."""
    if len(strings) % 2:
        raise WireError("TFTP option without a value")
    options: dict[str, str] = {}
    for name, value in zip(strings[::2], strings[1::2], strict=True):
        if not name:
            raise WireError("TFTP option without a name")
        options.setdefault(name.lower(), value)
    return options


def build_data_header(block: int) -> bytes:
    """What goes before the payload of DATA; the block number is taken modulo 65536."""
    return _HEADER.pack(_DATA, block & 0xFFFF)


def build_ack(block: int) -> bytes:
    """ACK; the block number is taken modulo 65536."""
    return _HEADER.pack(Opcode.ACK, block & 0xFFFF)


def build_error(code: ErrorCode, message: str) -> bytes:
    """ERROR with words of our own (tftpy knows only the standard's)."""
    return _HEADER.pack(Opcode.ERROR, code) + message.encode("ascii", "replace") + b"\0"


def build_option_ack(options: Mapping[str, str]) -> bytes:
    """OACK."""
    words = [word for option in options.items() for word in option]
    return Opcode.OACK.to_bytes(2, "big") + b"".join(word.encode("ascii") + b"\0" for word in words)
