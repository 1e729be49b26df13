"""What to put into another DHCP server so that machines boot from this appliance without its proxy.

The file names are those of boot/selection.py, so a snippet and our own answers agree.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from netboot.boot.selection import select_boot_file
from netboot.model import BootClient, BootFile, Firmware

_PLAIN = re.compile(r"[A-Za-z0-9 ./:!_,'()-]*")
"""Means nothing in any of the languages inside double quotes, and ends no word or comment line."""


class Peer(StrEnum):
    """A DHCP server that snippets are made for."""

    DNSMASQ = "dnsmasq"
    KEA = "kea"
    ISC = "isc"
    WINDOWS = "windows"


_TEMPLATES = {
    Peer.DNSMASQ: "dhcp/dnsmasq.conf.j2",
    Peer.KEA: "dhcp/kea.json.j2",
    Peer.ISC: "dhcp/isc.conf.j2",
    Peer.WINDOWS: "dhcp/windows.ps1.j2",
}

_ASKING = (
    (Firmware.BIOS, (0,), "bios", False, "BIOS"),
    (Firmware.IPXE_BIOS, (0,), "bios", True, "iPXE on BIOS"),
    (Firmware.UEFI_X64, (7, 9), "uefi", False, "UEFI x64"),
    (Firmware.IPXE_UEFI_X64, (7, 9), "uefi", True, "iPXE on UEFI x64"),
)


@dataclass(frozen=True, slots=True)
class BootRow:
    """What machines of one kind are told."""

    tag: str
    arches: tuple[int, ...]
    """Option 93."""
    ipxe: bool
    """iPXE asks (option 77), not the firmware itself."""
    file: str
    words: str


def boot_rows(server: IPv4Address, http_port: int, own: Mapping[Firmware, str] | None = None) -> tuple[BootRow, ...]:
    """Every kind of machine that has a boot file. The other server writes the ACK: as if we were the DHCP server."""
    rows = []
    for firmware, arches, tag, ipxe, words in _ASKING:
        chosen = select_boot_file(BootClient("", arches[0], firmware, ""), server, http_port, own=own)
        if isinstance(chosen, BootFile):
            rows.append(BootRow(tag, arches, ipxe, chosen.name, words))
    return tuple(rows)


def render_snippet(peer: Peer, server: IPv4Address, http_port: int, own: Mapping[Firmware, str] | None = None) -> str:
    """Configuration for `peer`, ready to be pasted. `own`: boot programs of the administrator's own."""
    environment = Environment(
        loader=PackageLoader("templates", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_plain,
        autoescape=False,
    )
    rows = boot_rows(server, http_port, own)
    return environment.get_template(_TEMPLATES[peer]).render(server=str(server), rows=rows)


def _plain(value: Any) -> Any:
    """Everything that a template puts out passes here: text with syntax in it is refused, not escaped."""
    if not isinstance(value, str | int) or not _PLAIN.fullmatch(str(value)):
        raise ValueError(f"{value!r} cannot stand in a DHCP server's configuration")
    return value
