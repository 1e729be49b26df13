"""The DHCP options that Roomcast reads or writes, each with its type and source. Pure.

An option that is not in `REGISTRY` is carried as bytes and never looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Any, Generic, TypeVar

from construct import Byte, Bytes, Construct, ConstructError, ExprAdapter, GreedyRange, Int16ub, Int32ub

T = TypeVar("T")

PAD = 0
END = 255
MAX_OPTION_BYTES = 255
"""One option's length octet; a longer value is split over several of the same code (RFC 3396)."""


class MessageType(IntEnum):
    """RFC 2132, section 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(frozen=True, slots=True)
class OptionSpec(Generic[T]):
    """One option: its code, how its value is read and written, and where it is specified."""

    code: int
    name: str
    source: str
    parse: Callable[[bytes], T]
    """Raises ValueError when the bytes are not a value of this option."""
    build: Callable[[T], bytes]
    essential: bool = False
    """A packet whose essential option is malformed is refused as a whole; another malformed option counts as absent."""


_ADDRESS = ExprAdapter(Bytes(4), lambda raw, _: IPv4Address(raw), lambda value, _: value.packed)
_ADDRESSES = GreedyRange(_ADDRESS)
_CODES = GreedyRange(Byte)
_ARCHS = GreedyRange(Int16ub)


def _fixed(layout: Construct) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    size: int = layout.sizeof()

    def parse(raw: bytes) -> Any:
        if len(raw) != size:
            raise ValueError(f"{len(raw)} bytes where {size} are due")
        return layout.parse(raw)

    return parse, layout.build


def _many(layout: Construct, item_bytes: int) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    def parse(raw: bytes) -> Any:
        if not raw or len(raw) % item_bytes:
            raise ValueError(f"{len(raw)} bytes where a multiple of {item_bytes} is due")
        try:
            return tuple(layout.parse(raw))
        except ConstructError as error:  # not reached by the lengths above; kept so that only ValueError leaves
            raise ValueError(str(error)) from None

    return parse, layout.build


def _parse_text(raw: bytes) -> str:
    # Windows and several ROMs end text with NUL. Bytes outside ASCII stay visible, and never become anything else.
    return raw.rstrip(b"\0").decode("ascii", "backslashreplace")


def _build_text(value: str) -> bytes:
    return value.encode("ascii")


def _parse_bytes(raw: bytes) -> bytes:
    return raw


def _parse_message_type(raw: bytes) -> MessageType:
    if len(raw) != 1:
        raise ValueError(f"{len(raw)} bytes where 1 is due")
    return MessageType(raw[0])


def _build_message_type(value: MessageType) -> bytes:
    return bytes([value])


def _parse_user_class(raw: bytes) -> tuple[bytes, ...]:
    """Length-prefixed strings (RFC 3004); a value that is not of that form is one string (iPXE sends bare `iPXE`)."""
    classes = []
    rest = raw
    while rest:
        length = rest[0]
        if not 0 < length < len(rest):
            return (raw,)
        classes.append(rest[1 : 1 + length])
        rest = rest[1 + length :]
    return tuple(classes)


def _build_user_class(value: tuple[bytes, ...]) -> bytes:
    return b"".join(bytes([len(item)]) + item for item in value)


def _address_option(code: int, name: str, source: str, essential: bool = False) -> OptionSpec[IPv4Address]:
    parse, build = _fixed(_ADDRESS)
    return OptionSpec(code, name, source, parse, build, essential)


def _addresses_option(code: int, name: str, source: str) -> OptionSpec[tuple[IPv4Address, ...]]:
    parse, build = _many(_ADDRESSES, 4)
    return OptionSpec(code, name, source, parse, build)


def _number_option(code: int, name: str, source: str, layout: Construct) -> OptionSpec[int]:
    parse, build = _fixed(layout)
    return OptionSpec(code, name, source, parse, build)


def _numbers_option(code: int, name: str, source: str, layout: Construct, size: int) -> OptionSpec[tuple[int, ...]]:
    parse, build = _many(layout, size)
    return OptionSpec(code, name, source, parse, build)


def _text_option(code: int, name: str, source: str) -> OptionSpec[str]:
    return OptionSpec(code, name, source, _parse_text, _build_text)


def _bytes_option(code: int, name: str, source: str) -> OptionSpec[bytes]:
    return OptionSpec(code, name, source, _parse_bytes, _parse_bytes)


SUBNET_MASK = _address_option(1, "subnet mask", "RFC 2132, 3.3")
ROUTERS = _addresses_option(3, "routers", "RFC 2132, 3.5")
DNS_SERVERS = _addresses_option(6, "name servers", "RFC 2132, 3.8")
HOST_NAME = _text_option(12, "host name", "RFC 2132, 3.14")
DOMAIN_NAME = _text_option(15, "domain name", "RFC 2132, 3.17")
BROADCAST_ADDRESS = _address_option(28, "broadcast address", "RFC 2132, 5.3")
VENDOR_OPTIONS = _bytes_option(43, "vendor options", "RFC 2132, 8.4")
REQUESTED_ADDRESS = _address_option(50, "requested address", "RFC 2132, 9.1", essential=True)
LEASE_TIME = _number_option(51, "lease time", "RFC 2132, 9.2", Int32ub)
OVERLOAD = _number_option(52, "option overload", "RFC 2132, 9.3", Byte)
MESSAGE_TYPE: OptionSpec[MessageType] = OptionSpec(
    53, "message type", "RFC 2132, 9.6", _parse_message_type, _build_message_type, essential=True
)
SERVER_IDENTIFIER = _address_option(54, "server identifier", "RFC 2132, 9.7", essential=True)
PARAMETER_LIST = _numbers_option(55, "parameter request list", "RFC 2132, 9.8", _CODES, 1)
MESSAGE = _text_option(56, "message", "RFC 2132, 9.9")
MAX_MESSAGE_BYTES = _number_option(57, "maximum message size", "RFC 2132, 9.10", Int16ub)
RENEWAL_TIME = _number_option(58, "renewal time (T1)", "RFC 2132, 9.11", Int32ub)
REBINDING_TIME = _number_option(59, "rebinding time (T2)", "RFC 2132, 9.12", Int32ub)
VENDOR_CLASS = _text_option(60, "vendor class", "RFC 2132, 9.13")
CLIENT_IDENTIFIER = _bytes_option(61, "client identifier", "RFC 2132, 9.14")
TFTP_SERVER_NAME = _text_option(66, "TFTP server name", "RFC 2132, 9.4")
BOOT_FILE_NAME = _text_option(67, "boot file name", "RFC 2132, 9.5")
USER_CLASS: OptionSpec[tuple[bytes, ...]] = OptionSpec(
    77, "user class", "RFC 3004", _parse_user_class, _build_user_class
)
RELAY_AGENT = _bytes_option(82, "relay agent information", "RFC 3046")
CLIENT_ARCH = _numbers_option(93, "client system architecture", "RFC 4578, 2.1", _ARCHS, 2)
CLIENT_NETWORK_INTERFACE = _bytes_option(94, "client network interface", "RFC 4578, 2.2")
CLIENT_MACHINE_ID = _bytes_option(97, "client machine identifier", "RFC 4578, 2.3")

REGISTRY: dict[int, OptionSpec[Any]] = {
    spec.code: spec
    for spec in (
        SUBNET_MASK, ROUTERS, DNS_SERVERS, HOST_NAME, DOMAIN_NAME, BROADCAST_ADDRESS, VENDOR_OPTIONS,
        REQUESTED_ADDRESS, LEASE_TIME, OVERLOAD, MESSAGE_TYPE, SERVER_IDENTIFIER, PARAMETER_LIST, MESSAGE,
        MAX_MESSAGE_BYTES, RENEWAL_TIME, REBINDING_TIME, VENDOR_CLASS, CLIENT_IDENTIFIER, TFTP_SERVER_NAME,
        BOOT_FILE_NAME, USER_CLASS, RELAY_AGENT, CLIENT_ARCH, CLIENT_NETWORK_INTERFACE, CLIENT_MACHINE_ID,
    )
}  # fmt: skip
