"""What a setting may be: parsers from what TOML, an environment variable or a flag gives to the value. Pure.

Each raises ValueError in words, or `Wrong` when several things are wrong inside one value.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from imager.wire.groups import group_problem
from netboot.bitrate import parse_bitrate
from netboot.config.settings import AddressRange, CastNetwork, Mode
from netboot.config.suggest import suggest
from netboot.config.toml_lines import Path as KeyPath
from netboot.model import Firmware
from netboot.wire.dhcp_options import parse_custom_option

Parse = Callable[[Any], Any]

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HOST_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PXE_FIRMWARE = (Firmware.BIOS, Firmware.UEFI_IA32, Firmware.UEFI_X64, Firmware.UEFI_ARM64)
_LONGEST_DOMAIN = 253
_LONGEST_CLIENT_ID = 255


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, at its place inside a value."""

    path: KeyPath
    text: str
    example: str | None = None
    """None: that of the key whose value it is."""


class Wrong(ValueError):
    """All that is wrong with one value. `partial` has what is right of it, None for each part that is not."""

    def __init__(self, problems: Iterable[Problem], partial: Any = None) -> None:
        self.problems = tuple(problems)
        self.partial = partial
        super().__init__("; ".join(problem.text for problem in self.problems))


def problems_of(error: ValueError, path: KeyPath, example: str | None = None) -> list[Problem]:
    """Of an error that a parser raised for the value at `path`."""
    if isinstance(error, Wrong):
        return [
            Problem((*path, *each.path), each.text, example if each.example is None else each.example)
            for each in error.problems
        ]
    return [Problem(path, str(error), example)]


def many(parse: Parse, what: str) -> Parse:
    """A parser of lists; a text is a list with commas, as the environment and flags give it."""

    def parse_all(value: Any) -> tuple[Any, ...]:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"{value!r} is not a list of {what}")
        problems: list[Problem] = []
        parsed: list[Any] = []
        for number, item in enumerate(items):
            try:
                parsed.append(parse(item))
            except ValueError as error:
                problems += problems_of(error, (number,))
                parsed.append(None)
        if problems:
            raise Wrong(problems, tuple(parsed))
        return tuple(parsed)

    return parse_all


def bitrate(value: Any) -> int:
    """Bits a second, as a number or as `900m`; 0: no limit."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no bit rate")
    if str(value).strip() == "0":
        return 0
    try:
        return parse_bitrate(str(value).strip())
    except ValueError as error:
        raise ValueError(f"{value!r} is no bit rate from 100k to 1000g, as 900m is, and not 0") from error


def interfaces(value: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = many(_interface, "interfaces")(value)
    if not names:
        raise ValueError("no interface is named")
    if len(set(names)) < len(names):
        raise ValueError("an interface is named twice")
    return names


def _interface(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}", value):
        raise ValueError(f"{value!r} is not the name of an interface")
    return value


def mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise ValueError(f"{value!r} is not server, proxy, auto or off") from None


def address(value: Any) -> IPv4Address:
    if not isinstance(value, str | IPv4Address):
        raise ValueError(f"{value!r} is not an IPv4 address")
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an IPv4 address") from None


def host_address(value: Any) -> IPv4Address:
    """One that a machine can have."""
    parsed = address(value)
    if parsed.is_multicast or parsed.is_unspecified or int(parsed) >> 24 in (0, 127, 255):
        raise ValueError(f"{parsed} is no address that a machine can have")
    return parsed


def address_range(value: Any) -> AddressRange:
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if not dash:
        raise ValueError(f"{value!r} is not FIRST-LAST, as in 10.77.0.50-10.77.0.200")
    start, end = host_address(first.strip()), host_address(last.strip())
    if start > end:
        raise ValueError(f"{start} is above {end}")
    return start, end


def network(value: Any) -> IPv4Network:
    """Of machines: not multicast, and written with host bits zero."""
    try:
        parsed = IPv4Network(value, strict=False)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a network like 10.77.0.0/24") from None
    if isinstance(value, bool | int) or "/" not in str(value):
        raise ValueError(f"{value!r} is not a network like 10.77.0.0/24")
    if parsed.network_address != IPv4Address(str(value).partition("/")[0]):
        raise ValueError(f"{value} has host bits: the network is {parsed}")
    if parsed.is_multicast or not 8 <= parsed.prefixlen <= 30:
        raise ValueError(f"{parsed} is no network of machines: its prefix is to be from /8 to /30")
    return parsed


def cast_network(value: Any) -> CastNetwork:
    """Of multicast groups, of either IP version."""
    try:
        parsed = ip_network(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a network like 239.77.0.0/16 or ff12::a077:0/112") from None
    if isinstance(value, int):
        raise ValueError(f"{value!r} is not a network like 239.77.0.0/16 or ff12::a077:0/112")
    if isinstance(parsed, IPv6Network):
        return _cast_network6(parsed)
    if not parsed.is_multicast or parsed.prefixlen > 22:
        raise ValueError(f"{parsed} is not a multicast network of 1,024 groups or more, as 239.77.0.0/16 is")
    if parsed.prefixlen < 9:
        raise ValueError(f"{parsed} is too large: its groups would meet those of 224.0.0.x; take 239.77.0.0/16")
    return parsed


def _cast_network6(network: IPv6Network) -> IPv6Network:
    for group in (network[0], network[-1]):
        if problem := group_problem(group):
            raise ValueError(f"{network} holds {group}, which {problem}; take a network like ff12::a077:0/112")
    if network.prefixlen > 118:
        raise ValueError(f"{network} has fewer than 1,024 groups; take a network like ff12::a077:0/112")
    return network


def boolean(value: Any) -> bool:
    """On or off; in the environment by a word."""
    found = {"true": True, "false": False}.get(str(value).lower())
    if found is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return found


def number(least: float, most: float, kind: type[int] | type[float]) -> Parse:
    """A parser of numbers in a range."""
    noun = "a whole number" if kind is int else "a number"

    def parse(value: Any) -> int | float:
        try:
            if isinstance(value, bool):
                raise ValueError
            parsed = kind(value)
            if isinstance(value, float) and parsed != value:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{value!r} is not {noun}") from None
        if not least <= parsed <= most:
            raise ValueError(f"{value} is not in {least:.10g} to {most:.10g}")
        return parsed

    return parse


def path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError(f"{value!r} is not a path")
    return Path(value).absolute()


def page(value: Any) -> tuple[str, int] | None:
    if value == "off":
        return None
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon:
        raise ValueError(f"{value!r} is not ADDRESS:PORT, as in 127.0.0.1:8670, or off")
    return str(address(host)), int(number(1, 65535, int)(port))


def domain(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_DOMAIN:
        raise ValueError(f"{value!r} is not a domain name")
    if value and not all(_HOST_LABEL.fullmatch(label) for label in value.split(".")):
        raise ValueError(f"{value!r} is not a domain name like lab.example.org")
    return value


def hostname(value: Any) -> str:
    """One label: goes to the machine in DHCP option 12."""
    if not isinstance(value, str) or not _HOST_LABEL.fullmatch(value):
        raise ValueError(f"{value!r} is not a host name: letters, digits and inner hyphens, 63 at most")
    return value


def mac(value: Any) -> str:
    """Lower case with colons; hyphens and dots are read too."""
    text = re.sub("[:.-]", "", value).lower() if isinstance(value, str) else ""
    spelled = ":".join(text[i : i + 2] for i in range(0, len(text), 2))
    if not _MAC.fullmatch(spelled):
        raise ValueError(f"{value!r} is not a MAC like 52:54:00:12:34:56")
    if int(spelled[:2], 16) & 1 or spelled == "00:00:00:00:00:00":
        raise ValueError(f"{value!r} is the MAC of no machine")
    return spelled


def client_id(value: Any) -> bytes:
    """Option 61 whole, its type byte too, in hexadecimal digits."""
    text = re.sub("[: -]", "", value) if isinstance(value, str) else ""
    try:
        parsed = bytes.fromhex(text)
    except ValueError:
        parsed = b""
    if not 2 <= len(parsed) <= _LONGEST_CLIENT_ID:
        raise ValueError(f"{value!r} is not a client identifier in hexadecimal digits like ff:12:34:56:78:00")
    return parsed


def custom_options(value: Any) -> tuple[tuple[int, bytes], ...]:
    """A table: name or code of an option to its value."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a table of DHCP options")
    problems: list[Problem] = []
    parsed: dict[int, bytes] = {}
    for name, content in value.items():
        try:
            code, data = parse_custom_option(name, content)
            if code in parsed:
                raise ValueError(f"option {code} is given twice")
            parsed[code] = data
        except ValueError as error:
            problems.append(Problem((name,), str(error)))
    if problems:
        raise Wrong(problems, tuple(parsed.items()))
    return tuple(parsed.items())


def boot_programs(value: Any) -> tuple[tuple[Firmware, Path], ...]:
    """A table: kind of firmware to the file of its boot program."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a table of boot programs")
    problems: list[Problem] = []
    parsed: dict[Firmware, Path] = {}
    for kind, file in value.items():
        try:
            parsed[_pxe_firmware(kind)] = _program(file)
        except ValueError as error:
            problems.append(Problem((kind,), str(error)))
    if problems:
        raise Wrong(problems, tuple(parsed.items()))
    return tuple(parsed.items())


def _pxe_firmware(kind: str) -> Firmware:
    for firmware in _PXE_FIRMWARE:
        if kind == firmware:
            return firmware
    names = [str(firmware) for firmware in _PXE_FIRMWARE]
    raise ValueError(f"no such kind of firmware{suggest(kind, names)}: it is one of {', '.join(names)}")


def _program(value: Any) -> Path:
    """Its name goes into DHCP answers, as it is."""
    file = path(value)
    if not _FILE_NAME.fullmatch(file.name):
        raise ValueError(f"{file.name!r}: its name is to be letters, digits, dots, dashes and underscores, 64 at most")
    return file
