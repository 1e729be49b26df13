"""Which boot file a machine is told to fetch. Pure: one table, no I/O.

Every firmware gets GRUB itself. iPXE is told a GRUB too: a program that it starts does not ask DHCP again, so an iPXE
in a network card cannot chainload itself in a loop.
Seen on: SeaBIOS and OVMF 2022.11 with QEMU's iPXE ROMs (2019), OVMF's own driver, shim 16.1, GRUB 2.06 of Debian 12.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.model import BootClient, BootFile, Firmware, Ignored

BIOS_GRUB = "bios/core.0"
"""Path in the TFTP tree of our own i386-pc-pxe GRUB."""
UEFI_SHIM = "uefi/shimx64.efi"
"""Path in the TFTP tree of Debian's signed shim, which fetches `grubx64.efi` itself."""
UEFI_GRUB = "uefi/grub.efi"
"""Path in the TFTP tree of our own x86_64-efi GRUB, which nobody signed."""

BIOS_ARCHES = frozenset({0})
"""Option 93: Intel x86PC."""
UEFI_X64_ARCHES = frozenset({7, 9})
"""Option 93: EFI BC and EFI x86-64. The registry says 7 is x64 and RFC 4578 says 9 is: firmware sends either."""
UEFI_HTTP_ARCHES = frozenset({7, 9, 16})
"""Option 93 beside vendor class HTTPClient: x64 UEFI HTTP boot is 16."""
UEFI_HTTP_IMAGE = "uefi/http-{mac}.img"
"""Path below /boot/ of the volume that UEFI HTTP boot starts from; the MAC with dashes."""


@dataclass(frozen=True, slots=True)
class _Row:
    firmware: Firmware
    arches: frozenset[int]
    name: str
    because: str
    by_proxy: str
    """What a client is told when another DHCP server gives it its address."""


_TABLE = (
    _Row(
        Firmware.BIOS,
        BIOS_ARCHES,
        BIOS_GRUB,
        "a PXE ROM starts one program in real mode: GRUB made for PXE",
        by_proxy=BIOS_GRUB,
    ),
    _Row(
        Firmware.UEFI_X64,
        UEFI_X64_ARCHES,
        UEFI_SHIM,
        "Secure Boot accepts shim, and shim accepts Debian's GRUB",
        by_proxy=UEFI_GRUB,
    ),
    _Row(
        Firmware.UEFI_X64_HTTP,
        UEFI_HTTP_ARCHES,
        UEFI_HTTP_IMAGE,
        "signed GRUB has no HTTP: a volume with shim, GRUB, kernel and agent, which the firmware keeps in memory",
        by_proxy=UEFI_HTTP_IMAGE,
    ),
    _Row(
        Firmware.IPXE_BIOS,
        BIOS_ARCHES,
        BIOS_GRUB,
        "iPXE is a PXE ROM too, and GRUB uses its driver",
        by_proxy=BIOS_GRUB,
    ),
    _Row(
        Firmware.IPXE_UEFI_X64,
        UEFI_X64_ARCHES,
        UEFI_GRUB,
        "iPXE tells shim a wrong length of the file that shim fetches, and shim refuses it: GRUB without shim",
        by_proxy=UEFI_GRUB,
    ),
)


def select_boot_file(
    client: BootClient, server: IPv4Address, http_port: int = 80, *, by_proxy: bool = False
) -> BootFile | Ignored:
    """The file that `server` offers to `client`, or why there is none.

    `http_port` is where the appliance serves `/boot/`.
    `by_proxy`: we are a proxy beside another DHCP server. Debian's signed GRUB asks the server of the DHCP ACK for its
    configuration, and a proxy does not write the ACK: so UEFI gets our own GRUB, which knows our address and which
    Secure Boot refuses.
    """
    for row in _TABLE:
        if row.firmware is client.firmware and client.arch in row.arches:
            if row.firmware is Firmware.UEFI_X64_HTTP:
                host = str(server) if http_port == 80 else f"{server}:{http_port}"
                return BootFile(server, f"http://{host}/boot/{row.name.format(mac=client.mac.replace(':', '-'))}")
            return BootFile(server, row.by_proxy if by_proxy else row.name)
    return Ignored(
        f"no boot file for {client.firmware.value} with arch {client.arch}: only BIOS and UEFI x64 are served"
    )


def explain_boot_file(firmware: Firmware) -> str:
    """Why this firmware is told its file, in one sentence for a log or a page."""
    return next(row.because for row in _TABLE if row.firmware is firmware)
