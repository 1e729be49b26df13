"""The DHCP options that Roomcast reads or writes, each with its type and source. Pure.

An option that is not in `REGISTRY` is carried as bytes and never looked at.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Generic, TypeVar

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


def _parse_address(raw: bytes) -> IPv4Address:
    if len(raw) != 4:
        raise ValueError(f"{len(raw)} bytes where 4 are due")
    return IPv4Address(raw)


def _build_address(value: IPv4Address) -> bytes:
    return value.packed


def _parse_addresses(raw: bytes) -> tuple[IPv4Address, ...]:
    _check_multiple(raw, 4)
    return tuple([IPv4Address(raw[start : start + 4]) for start in range(0, len(raw), 4)])


def _build_addresses(value: tuple[IPv4Address, ...]) -> bytes:
    return b"".join([address.packed for address in value])


def _check_multiple(raw: bytes, size: int) -> None:
    if not raw or len(raw) % size:
        raise ValueError(f"{len(raw)} bytes where a multiple of {size} is due")


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
    return OptionSpec(code, name, source, _parse_address, _build_address, essential)


def _addresses_option(code: int, name: str, source: str) -> OptionSpec[tuple[IPv4Address, ...]]:
    return OptionSpec(code, name, source, _parse_addresses, _build_addresses)


def _number_option(code: int, name: str, source: str, size: int) -> OptionSpec[int]:
    def parse(raw: bytes) -> int:
        if len(raw) != size:
            raise ValueError(f"{len(raw)} bytes where {size} are due")
        return int.from_bytes(raw, "big")

    def build(value: int) -> bytes:
        return value.to_bytes(size, "big")

    return OptionSpec(code, name, source, parse, build)


def _numbers_option(code: int, name: str, source: str, size: int) -> OptionSpec[tuple[int, ...]]:
    def parse(raw: bytes) -> tuple[int, ...]:
        _check_multiple(raw, size)
        if size == 1:
            return tuple(raw)
        return tuple([int.from_bytes(raw[start : start + size], "big") for start in range(0, len(raw), size)])

    def build(value: tuple[int, ...]) -> bytes:
        return b"".join([item.to_bytes(size, "big") for item in value])

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
LEASE_TIME = _number_option(51, "lease time", "RFC 2132, 9.2", 4)
OVERLOAD = _number_option(52, "option overload", "RFC 2132, 9.3", 1)
MESSAGE_TYPE: OptionSpec[MessageType] = OptionSpec(
    53, "message type", "RFC 2132, 9.6", _parse_message_type, _build_message_type, essential=True
)
SERVER_IDENTIFIER = _address_option(54, "server identifier", "RFC 2132, 9.7", essential=True)
PARAMETER_LIST = _numbers_option(55, "parameter request list", "RFC 2132, 9.8", 1)
MESSAGE = _text_option(56, "message", "RFC 2132, 9.9")
MAX_MESSAGE_BYTES = _number_option(57, "maximum message size", "RFC 2132, 9.10", 2)
RENEWAL_TIME = _number_option(58, "renewal time (T1)", "RFC 2132, 9.11", 4)
REBINDING_TIME = _number_option(59, "rebinding time (T2)", "RFC 2132, 9.12", 4)
VENDOR_CLASS = _text_option(60, "vendor class", "RFC 2132, 9.13")
CLIENT_IDENTIFIER = _bytes_option(61, "client identifier", "RFC 2132, 9.14")
TFTP_SERVER_NAME = _text_option(66, "TFTP server name", "RFC 2132, 9.4")
BOOT_FILE_NAME = _text_option(67, "boot file name", "RFC 2132, 9.5")
USER_CLASS: OptionSpec[tuple[bytes, ...]] = OptionSpec(
    77, "user class", "RFC 3004", _parse_user_class, _build_user_class
)
RELAY_AGENT = _bytes_option(82, "relay agent information", "RFC 3046")
CLIENT_ARCH = _numbers_option(93, "client system architecture", "RFC 4578, 2.1", 2)
CLIENT_NETWORK_INTERFACE = _bytes_option(94, "client network interface", "RFC 4578, 2.2")
CLIENT_MACHINE_ID = _bytes_option(97, "client machine identifier", "RFC 4578, 2.3")
SUBNET_SELECTION = _address_option(118, "subnet selection", "RFC 3011")

REGISTRY: dict[int, OptionSpec[Any]] = {
    spec.code: spec
    for spec in (
        SUBNET_MASK, ROUTERS, DNS_SERVERS, HOST_NAME, DOMAIN_NAME, BROADCAST_ADDRESS, VENDOR_OPTIONS,
        REQUESTED_ADDRESS, LEASE_TIME, OVERLOAD, MESSAGE_TYPE, SERVER_IDENTIFIER, PARAMETER_LIST, MESSAGE,
        MAX_MESSAGE_BYTES, RENEWAL_TIME, REBINDING_TIME, VENDOR_CLASS, CLIENT_IDENTIFIER, TFTP_SERVER_NAME,
        BOOT_FILE_NAME, USER_CLASS, RELAY_AGENT, CLIENT_ARCH, CLIENT_NETWORK_INTERFACE, CLIENT_MACHINE_ID,
        SUBNET_SELECTION,
    )
}  # fmt: skip

LINK_SELECTION = 5
"""Sub-option of option 82: the client's network, where it is not the relay's own (RFC 3527)."""


def relay_sub_options(value: bytes) -> dict[int, bytes]:
    """What is inside option 82 (RFC 3046, section 2.0), as far as it is whole: a relay's slip is not the client's."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 2 <= len(value):
        length = value[position + 1]
        item = value[position + 2 : position + 2 + length]
        if len(item) != length:
            break
        found.setdefault(value[position], item)
        position += 2 + length
    return found


# Options that an administrator adds. Their names are the registry's of IANA, with dashes.

HEX = "hex:"
TEXT = "text:"
_OPTION_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def _items(value: object) -> list[object]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _custom_addresses(value: object) -> bytes:
    addresses = []
    for item in _items(value):
        try:
            addresses.append(IPv4Address(item) if isinstance(item, str | IPv4Address) else _no_address(item))
        except ValueError:
            _no_address(item)
    return _build_addresses(tuple(addresses))


def _no_address(item: object) -> IPv4Address:
    raise ValueError(f"{item!r} is not an IPv4 address")


def _custom_text(value: object) -> bytes:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(f"{value!r} is not printable ASCII text")
    return value.encode("ascii")


def _custom_number(size: int, signed: bool = False) -> Callable[[object], bytes]:
    def build(value: object) -> bytes:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a number")
        try:
            return value.to_bytes(size, "big", signed=signed)
        except OverflowError:
            raise ValueError(f"{value} does not fit in {size * 8} bits") from None

    return build


def _custom_domains(value: object) -> bytes:
    """Names as in the DNS, without its compression (RFC 3397, section 2)."""
    built = b""
    for item in _items(value):
        labels = item.rstrip(".").split(".") if isinstance(item, str) else []
        if not labels or not all(_LABEL.fullmatch(label) for label in labels) or sum(map(len, labels)) > 230:
            raise ValueError(f"{item!r} is not a domain name")
        built += b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"
    return built


def _custom_routes(value: object) -> bytes:
    """`NETWORK via ROUTER`, several with commas or as a list (RFC 3442)."""
    built = b""
    for item in _items(value):
        network_text, _, router_text = item.partition(" via ") if isinstance(item, str) else ("", "", "")
        try:
            network, router = IPv4Network(network_text.strip()), IPv4Address(router_text.strip())
        except ValueError:
            raise ValueError(f"{item!r} is not of the form 10.1.0.0/16 via 10.0.0.1") from None
        significant = (network.prefixlen + 7) // 8
        built += bytes([network.prefixlen]) + network.network_address.packed[:significant] + router.packed
    return built


_CUSTOM: dict[int, tuple[str, Callable[[object], bytes]]] = {
    2: ("time-offset", _custom_number(4, signed=True)),
    4: ("time-servers", _custom_addresses),
    7: ("log-servers", _custom_addresses),
    9: ("lpr-servers", _custom_addresses),
    17: ("root-path", _custom_text),
    26: ("interface-mtu", _custom_number(2)),
    40: ("nis-domain", _custom_text),
    41: ("nis-servers", _custom_addresses),
    42: ("ntp-servers", _custom_addresses),
    44: ("netbios-name-servers", _custom_addresses),
    46: ("netbios-node-type", _custom_number(1)),
    66: ("tftp-server-name", _custom_text),
    67: ("boot-file-name", _custom_text),
    69: ("smtp-servers", _custom_addresses),
    100: ("posix-timezone", _custom_text),
    101: ("tzdb-timezone", _custom_text),
    114: ("captive-portal", _custom_text),
    119: ("domain-search", _custom_domains),
    121: ("classless-static-routes", _custom_routes),
    150: ("tftp-servers", _custom_addresses),
    252: ("wpad", _custom_text),
}
_CODE_OF_NAME = {name: code for code, (name, _) in _CUSTOM.items()}
_NOT_CUSTOM = {
    1: "the subnet's network says it",
    3: "set the subnet's `routers`",
    6: "set the subnet's `dns`",
    12: "set a reservation's `hostname`",
    15: "set the subnet's `domain`",
    28: "the subnet's network says it",
    51: "set the subnet's `lease-s`",
    **dict.fromkeys((50, 52, 53, 54, 55, 56, 57, 58, 59, 61, 82, 118), "DHCP itself writes it"),
    **dict.fromkeys((60, 77, 93, 94, 97), "the answer to the firmware needs it"),
}


def parse_custom_option(name_or_code: str | int, value: object) -> tuple[int, bytes]:
    """Code and value of an option as configured: `"ntp-servers", ["10.0.0.1"]`, `26, 1400` or `43, "hex:..."`.

    Every code takes `hex:0a0b` and `text:...`. What boot clients need goes before what is configured (66, 67, 43).
    Raises ValueError in words.
    """
    code = _custom_code(name_or_code)
    if code in _NOT_CUSTOM:
        raise ValueError(f"option {name_or_code} cannot be set here: {_NOT_CUSTOM[code]}")
    known = _CUSTOM.get(code)
    try:
        if isinstance(value, str) and value.startswith(HEX):
            built = _custom_hex(value.removeprefix(HEX))
        elif isinstance(value, str) and value.startswith(TEXT):
            built = _custom_text(value.removeprefix(TEXT))
        elif known is not None:
            built = known[1](value)
        else:
            raise ValueError("write its bytes as hex:0a0b, or its text as text:...")
        if not 1 <= len(built) <= MAX_OPTION_BYTES:
            raise ValueError(f"{len(built)} bytes; 1 to {MAX_OPTION_BYTES} can be sent")
    except ValueError as error:
        raise ValueError(f"option {name_or_code}: {error}") from None
    return code, built


def _custom_code(name_or_code: str | int) -> int:
    text = str(name_or_code)
    if isinstance(name_or_code, bool) or not _OPTION_NAME.fullmatch(text):
        raise ValueError(f"{name_or_code!r} is no option: write its number or its name")
    if not text.isdigit():
        if text not in _CODE_OF_NAME:
            raise ValueError(
                f"option {text} has no such name here: write its number; names are {', '.join(_CODE_OF_NAME)}"
            )
        return _CODE_OF_NAME[text]
    code = int(text) if len(text) < 4 else END
    if not PAD < code < END:
        raise ValueError(f"option {text} does not exist: codes are 1 to 254")
    return code


def _custom_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", " "))
    except ValueError:
        raise ValueError(f"{text!r} is not hexadecimal") from None
