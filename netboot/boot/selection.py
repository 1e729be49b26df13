"""Which boot file a machine is told to fetch. Pure: one table, no I/O.

Every firmware gets GRUB itself, unless the administrator names a program of his own. iPXE is told a GRUB always: a
program that it starts does not ask DHCP again, so no iPXE, in a network card or chained, goes round in a loop.
Seen on: SeaBIOS and OVMF 2022.11 with QEMU's iPXE ROMs (2019), OVMF's own driver, shim 16.1, GRUB 2.06 of Debian 12.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from netboot.model import BootClient, BootFile, Firmware, Ignored

BIOS_GRUB = "bios/core.0"
"""Path in the TFTP tree of our own i386-pc-pxe GRUB."""


class UefiArch(StrEnum):
    """What UEFI programs are made for, by the letters that UEFI puts into their names (UEFI 2.10, section 3.5.1.1)."""

    IA32 = "ia32"
    X64 = "x64"
    ARM64 = "aa64"

    @property
    def shim(self) -> str:
        """Path in the TFTP tree of Debian's signed shim, which fetches `signed_grub` itself."""
        return f"uefi/shim{self}.efi"

    @property
    def signed_grub(self) -> str:
        """Path of Debian's signed network GRUB. Shim asks for it by this name, beside itself."""
        return f"uefi/grub{self}.efi"

    @property
    def own_grub(self) -> str:
        """Path of our own GRUB, which nobody signed."""
        return "uefi/grub.efi" if self is UefiArch.X64 else f"uefi/own-grub{self}.efi"

    @property
    def disk_grub(self) -> str:
        """Path below the directory of boot programs of Debian's signed GRUB for disks: it goes into `http_image`."""
        return "uefi/grubdisk.efi" if self is UefiArch.X64 else f"uefi/grubdisk{self}.efi"

    def http_image(self, mac: str) -> str:
        """Path below /boot/ of the volume that UEFI HTTP boot of this machine starts from."""
        letters = "" if self is UefiArch.X64 else f"{self}-"
        return f"uefi/http-{letters}{mac.replace(':', '-')}.img"


OWN_PROGRAMS = "own/"
"""Where programs of the administrator's own are in the tree."""
UEFI_SHIM = UefiArch.X64.shim
UEFI_GRUB = UefiArch.X64.own_grub


@dataclass(frozen=True, slots=True)
class _Told:
    """What a client is told, and why."""

    name: str
    because: str


@dataclass(frozen=True, slots=True)
class _Row:
    firmware: Firmware
    uefi: UefiArch | None
    as_server: _Told
    by_proxy: _Told
    """When another DHCP server gives it its address."""


def _bios(firmware: Firmware, because: str) -> _Row:
    told = _Told(BIOS_GRUB, because)
    return _Row(firmware, None, told, told)


def _pxe(firmware: Firmware, arch: UefiArch) -> _Row:
    return _Row(
        firmware,
        arch,
        _Told(arch.shim, "Secure Boot accepts shim, and shim accepts Debian's GRUB"),
        _Told(
            arch.own_grub,
            "beside another DHCP server signed GRUB would ask that one for its files; this one knows us, and Secure "
            "Boot refuses it: with Secure Boot use UEFI HTTP boot",
        ),
    )


def _http(firmware: Firmware, arch: UefiArch) -> _Row:
    told = _Told(
        arch.disk_grub,
        "signed GRUB has no HTTP: a volume with shim, GRUB, kernel and agent, which the firmware keeps in memory",
    )
    return _Row(firmware, arch, told, told)


def _ipxe(firmware: Firmware, arch: UefiArch) -> _Row:
    told = _Told(
        arch.own_grub,
        "iPXE tells shim a wrong length of the file that shim fetches, and shim refuses it: GRUB without shim",
    )
    return _Row(firmware, arch, told, told)


_TABLE = {
    row.firmware: row
    for row in (
        _bios(Firmware.BIOS, "a PXE ROM starts one program in real mode: GRUB made for PXE"),
        _bios(Firmware.IPXE_BIOS, "iPXE is a PXE ROM too, and GRUB uses its driver"),
        _pxe(Firmware.UEFI_IA32, UefiArch.IA32),
        _pxe(Firmware.UEFI_X64, UefiArch.X64),
        _pxe(Firmware.UEFI_ARM64, UefiArch.ARM64),
        _http(Firmware.UEFI_IA32_HTTP, UefiArch.IA32),
        _http(Firmware.UEFI_X64_HTTP, UefiArch.X64),
        _http(Firmware.UEFI_ARM64_HTTP, UefiArch.ARM64),
        _ipxe(Firmware.IPXE_UEFI_IA32, UefiArch.IA32),
        _ipxe(Firmware.IPXE_UEFI_X64, UefiArch.X64),
        _ipxe(Firmware.IPXE_UEFI_ARM64, UefiArch.ARM64),
    )
}


def select_boot_file(
    client: BootClient,
    server: IPv4Address,
    http_port: int = 80,
    *,
    by_proxy: bool = False,
    programs: Collection[str] | None = None,
    own: Mapping[Firmware, str] | None = None,
) -> BootFile | Ignored:
    """The file that `server` offers to `client`, or why there is none.

    `http_port` is where the appliance serves `/boot/`.
    `by_proxy`: we are a proxy beside another DHCP server. Debian's signed GRUB asks the server of the DHCP ACK for its
    configuration, and a proxy does not write the ACK: so UEFI gets our own GRUB, which knows our address.
    `programs`: paths of those that have been made; None: of all.
    `own`: paths of the administrator's own, which go before ours.
    """
    if own and client.firmware in own:
        return BootFile(server, own[client.firmware])
    row = _TABLE[client.firmware]
    told = row.by_proxy if by_proxy else row.as_server
    if programs is not None and told.name not in programs:
        return Ignored(_why_missing(row, told.name))
    if row.uefi is not None and client.firmware.by_http:
        host = str(server) if http_port == 80 else f"{server}:{http_port}"
        return BootFile(server, f"http://{host}/boot/{row.uefi.http_image(client.mac)}")
    return BootFile(server, told.name)


def own_program(firmware: Firmware, file_name: str) -> str:
    """Path in the TFTP tree of a boot program of the administrator's own."""
    return f"{OWN_PROGRAMS}{firmware}/{file_name}"


def explain_boot_file(firmware: Firmware, name: str) -> str:
    """Why this firmware is told the file `name`, in one sentence for a log or a page."""
    if name.startswith(OWN_PROGRAMS):
        return "the settings name a boot program of your own for this firmware (boot-programs)"
    row = _TABLE[firmware]
    return row.by_proxy.because if name == row.by_proxy.name else row.as_server.because


def _why_missing(row: _Row, name: str) -> str:
    again = "start `roomcast serve` again"
    if row.uefi in (None, UefiArch.X64):
        return f"the boot program {name} is missing: {again}, it makes them"
    return (
        f"no boot programs for {row.firmware.value} ({name}): "
        f"`roomcast boot-programs --fetch {row.uefi.name.lower()}` fetches Debian's; then {again}"
    )
