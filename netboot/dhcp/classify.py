"""Who is asking for a boot file: a DHCP packet in, `BootClient` or the reason why it is none. Pure: one table.

Sources: RFC 4578 (options 93, 97), PXE 2.1 (option 60), RFC 3004 (option 77), UEFI 2.10 section 24.7 (HTTPClient),
IANA's processor architecture types, iPXE's encapsulated options (175).
"""

from dataclasses import dataclass
from enum import StrEnum

from netboot.model import BootClient, Firmware, Ignored
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import CLIENT_ARCH, CLIENT_MACHINE_ID, USER_CLASS, VENDOR_CLASS
from netboot.wire.pxe import ARCH_NAMES, arch_of_class, is_http_class, is_pxe_class, system_uuid

AGENT_CLASS = "roomcast-agent"
"""Vendor class of our agent's DHCP client."""
IPXE_USER_CLASSES = (b"iPXE", b"gPXE")
"""gPXE is what iPXE grew out of; it is old, and still in some network cards."""
IPXE_OPTIONS = 175
"""iPXE's own options, with what it was built with: sent by builds that were given another user class, too."""


class _By(StrEnum):
    """Who speaks, by options 60, 77 and 175."""

    PXE = "PXEClient"
    HTTP = "HTTPClient"
    IPXE = "iPXE"


@dataclass(frozen=True, slots=True)
class ClientRow:
    """One kind of client."""

    firmware: Firmware
    by: _By
    arches: tuple[int, ...]
    """Option 93."""


CLIENTS = (
    ClientRow(Firmware.BIOS, _By.PXE, (0,)),
    ClientRow(Firmware.UEFI_IA32, _By.PXE, (6,)),
    ClientRow(Firmware.UEFI_X64, _By.PXE, (7, 9)),
    ClientRow(Firmware.UEFI_ARM64, _By.PXE, (11,)),
    # HTTPClient's word counts for more than an arch of PXE beside it.
    ClientRow(Firmware.UEFI_IA32_HTTP, _By.HTTP, (15, 6)),
    ClientRow(Firmware.UEFI_X64_HTTP, _By.HTTP, (16, 7, 9)),
    ClientRow(Firmware.UEFI_ARM64_HTTP, _By.HTTP, (19, 11)),
    ClientRow(Firmware.IPXE_BIOS, _By.IPXE, (0,)),
    ClientRow(Firmware.IPXE_UEFI_IA32, _By.IPXE, (6,)),
    ClientRow(Firmware.IPXE_UEFI_X64, _By.IPXE, (7, 9)),
    ClientRow(Firmware.IPXE_UEFI_ARM64, _By.IPXE, (11,)),
)
_FIRMWARE = {(row.by, arch): row.firmware for row in CLIENTS for arch in row.arches}

_NO_CLASS = "not a boot client: no vendor class (option 60); GRUB and installed systems ask like that"
_AGENT = "our agent has booted: it wants an address and no boot file"


def classify(packet: DhcpPacket) -> BootClient | Ignored:
    """Tell who asks by `CLIENTS`. `Ignored`: gets no boot file; it may still get a lease."""
    vendor_class = packet.options.get(VENDOR_CLASS)
    if vendor_class is None:
        return Ignored(_NO_CLASS)
    if vendor_class == AGENT_CLASS:
        return Ignored(_AGENT)
    is_http = is_http_class(vendor_class)
    if not (is_http or is_pxe_class(vendor_class)):
        return Ignored(f"not a boot client: vendor class {vendor_class!r}")
    archs = packet.options.get(CLIENT_ARCH)
    arch = archs[0] if archs else arch_of_class(vendor_class)
    if arch is None:
        return Ignored("PXE client without an arch: no option 93, none in its vendor class")
    by = _By.HTTP if is_http else _By.IPXE if is_ipxe(packet) else _By.PXE
    firmware = _FIRMWARE.get((by, arch))
    if firmware is None:
        return Ignored(f"arch {arch} is not served: {ARCH_NAMES.get(arch, 'unknown')}, asked by {by.value}")
    return BootClient(
        mac=packet.mac,
        arch=arch,
        firmware=firmware,
        system_uuid=system_uuid(packet.options.get(CLIENT_MACHINE_ID) or b""),
    )


def is_ipxe(packet: DhcpPacket) -> bool:
    """Whether iPXE asks, be it in a network card or started by somebody."""
    classes = packet.options.get(USER_CLASS) or ()
    return IPXE_OPTIONS in packet.options.raw or any(name in classes for name in IPXE_USER_CLASSES)
