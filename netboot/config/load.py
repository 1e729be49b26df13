"""Settings from /etc/roomcast/roomcast.toml, the environment and the command line's flags.

The file's keys are the fields' names with dashes (`http-port = 80`). All mistakes are told at once.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from netboot.config.settings import (
    CONFIG_FILE,
    CONTROL_PORTS,
    DATA_DIRECTORY,
    DATA_PORTS,
    LONGEST_LEASE_S,
    SHORTEST_LEASE_S,
    SOCKET_PATH,
    Mode,
    Settings,
)
from netboot.errors import UserError


def data_directory(flag: Path | None) -> Path:
    """The data directory of a command: its flag, ROOMCAST_DATA, the configuration file, or the default."""
    return flag or _environment_path("ROOMCAST_DATA") or _file_path("data") or DATA_DIRECTORY


def socket_path(flag: Path | None) -> Path:
    """The API socket of a command: its flag, ROOMCAST_SOCKET, the configuration file, or the default."""
    return flag or _environment_path("ROOMCAST_SOCKET") or _file_path("socket") or SOCKET_PATH


def load_settings(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Settings from `file` (the default file may be missing, a named one must exist), overridden by `flags`.

    `flags` has the fields' names; None means not given; `pool` ("A-B") and `page` ("ADDRESS:PORT") are two in one.
    Raises UserError that lists every mistake.
    """
    mistakes: list[str] = []
    values = _read_file(file or CONFIG_FILE, required=file is not None)
    for name, variable in (("data", "ROOMCAST_DATA"), ("socket", "ROOMCAST_SOCKET")):
        if (path := _environment_path(variable)) is not None:
            values[name] = path
    values.update({name: value for name, value in flags.items() if value is not None})
    _split_pairs(values, mistakes)
    known = {field.name for field in fields(Settings)}
    for name in sorted(set(values) - known):
        mistakes.append(f"{name.replace('_', '-')}: no such setting")
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name in _PARSERS:
            try:
                parsed[name] = _PARSERS[name](value)
            except ValueError as error:
                mistakes.append(f"{name.replace('_', '-')}: {error}")
    if "interfaces" not in values:
        mistakes.append("interfaces: missing; name the network interface to serve: --interface eth1")
    start, end = parsed.get("pool_start"), parsed.get("pool_end")
    if (start is None) != (end is None) and not any(m.startswith("pool") for m in mistakes):
        mistakes.append("pool: give both its ends: --pool 10.77.0.50-10.77.0.200")
    if start is not None and end is not None and start > end:
        mistakes.append(f"pool: {start} is above {end}")
    if mistakes:
        raise UserError("settings: " + "; ".join(mistakes))
    return Settings(**parsed)


def _environment_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _file_path(name: str) -> Path | None:
    value = _read_file(CONFIG_FILE, required=False).get(name)
    return Path(value) if isinstance(value, str) else None


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if required:
            raise UserError(f"{path}: no such configuration file") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: {error}") from error
    return {key.replace("-", "_"): value for key, value in tree.items()}


def _split_pairs(values: dict[str, Any], mistakes: list[str]) -> None:
    if (pool := values.pop("pool", None)) is not None:
        start, dash, end = str(pool).partition("-")
        if dash:
            values["pool_start"], values["pool_end"] = start.strip(), end.strip()
        else:
            mistakes.append(f"pool: {pool!r} is not FIRST-LAST, as in 10.77.0.50-10.77.0.200")
    if (page := values.pop("page", None)) is not None:
        address, colon, port = str(page).rpartition(":")
        if page == "off":
            values["page_port"] = 0
        elif colon:
            values["page_address"], values["page_port"] = address, port
        else:
            mistakes.append(f"page: {page!r} is not ADDRESS:PORT, as in 127.0.0.1:8670, or off")


def _interfaces(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items:
        raise ValueError(f"{value!r} is not a list of interfaces")
    names = tuple(_interface(item) for item in items)
    if len(set(names)) < len(names):
        raise ValueError("an interface is named twice")
    return names


def _interface(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}", value):
        raise ValueError(f"{value!r} is not the name of an interface")
    return value


def _mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise ValueError(f"{value!r} is not server, proxy, auto or off") from None


def _address(value: Any) -> IPv4Address:
    if not isinstance(value, str | IPv4Address):
        raise ValueError(f"{value!r} is not an IPv4 address")
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError(f"{value!r} is not an IPv4 address") from None


def _addresses(value: Any) -> tuple[IPv4Address, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError(f"{value!r} is not a list of IPv4 addresses")
    return tuple(_address(item) for item in items)


def _number(least: float, most: float, kind: type[int] | type[float]) -> Callable[[Any], int | float]:
    def parse(value: Any) -> int | float:
        try:
            if isinstance(value, bool):
                raise ValueError
            number = kind(value)
            if isinstance(value, float) and number != value:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{value!r} is not a number") from None
        if not least <= number <= most:
            raise ValueError(f"{value} is not in {least:g} to {most:g}")
        return number

    return parse


def _network(value: Any) -> IPv4Network:
    try:
        network = IPv4Network(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a network like 239.77.0.0/16") from None
    if not network.is_multicast or network.prefixlen > 22:
        raise ValueError(f"{network} is not a multicast network of 1,024 groups or more, as 239.77.0.0/16 is")
    if network.prefixlen < 9:
        raise ValueError(f"{network} is too large: its groups would meet those of 224.0.0.x; take 239.77.0.0/16")
    return network


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{value!r} is not a path")
    return Path(value).absolute()


def _text_address(value: Any) -> str:
    return str(_address(value))


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "interfaces": _interfaces,
    "mode": _mode,
    "pool_start": _address,
    "pool_end": _address,
    "lease_s": _number(SHORTEST_LEASE_S, LONGEST_LEASE_S, int),
    "router": _address,
    "dns": _addresses,
    "http_port": _number(1, 65535, int),
    "page_address": _text_address,
    "page_port": _number(0, 65535, int),
    "data": _path,
    "socket": _path,
    "cast_network": _network,
    "data_port_base": _number(1024, 65536 - DATA_PORTS, int),
    "control_port_base": _number(1024, 65536 - CONTROL_PORTS, int),
    "silence_s": _number(5, 86400, float),
    "idle_s": _number(10, 30 * 86400, float),
    "join_within_s": _number(10, 30 * 86400, float),
    "max_wait_s": _number(0, 86400, float),
}
