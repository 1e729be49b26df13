"""The boot programs in one directory: our own GRUB for BIOS and UEFI, Debian's signed shim and GRUB for UEFI.

BIOS and UEFI x64 always; UEFI of other architectures when their packages have been fetched (debian_packages.py); beside
them copies of the administrator's own. Runs grub-mkimage. Each file is replaced whole, and all are left alone while
what they are made of is unchanged.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from imager.errors import ToolError
from imager.programs import run
from netboot.boot.selection import BIOS_GRUB, UefiArch, own_program
from netboot.errors import ServiceError
from netboot.model import Firmware

_COMMON_MODULES = (
    # the network and what is fetched
    *("tftp", "http", "net"),
    # the script
    *("normal", "configfile", "test", "true", "regexp", "echo", "cat", "sleep", "minicmd", "loadenv"),
    # consoles
    *("terminal", "serial"),
    # the agent
    *("linux", "gzio"),
    # the machine's own disk
    *("part_gpt", "part_msdos", "fat", "ext2", "ntfs", "chain"),
    *("search", "search_fs_uuid", "search_fs_file", "search_label", "probe", "smbios"),
    # the way out
    *("reboot", "halt"),
)
"""Built into the images: no machine loads a module over the network."""


@dataclass(frozen=True, slots=True)
class _OwnGrub:
    """A GRUB that we make."""

    format: str
    """As grub-mkimage names it."""
    platform: str
    """Directory of its modules."""
    package: str
    modules: tuple[str, ...]


_UEFI_MODULES = ("efinet", "efifwsetup", *_COMMON_MODULES)
_BIOS = _OwnGrub("i386-pc-pxe", "i386-pc", "grub-pc-bin", ("pxe", "biosdisk", "pxechain", *_COMMON_MODULES))
_UEFI = {
    UefiArch.IA32: _OwnGrub("i386-efi", "i386-efi", "grub-efi-ia32-bin", _UEFI_MODULES),
    UefiArch.X64: _OwnGrub("x86_64-efi", "x86_64-efi", "grub-efi-amd64-bin", _UEFI_MODULES),
    UefiArch.ARM64: _OwnGrub("arm64-efi", "arm64-efi", "grub-efi-arm64-bin", _UEFI_MODULES),
}

_STAMP = "made-from"


@dataclass(frozen=True, slots=True)
class DebianFiles:
    """Where Debian's packages put what we need."""

    root: Path = Path("/")
    """Of BIOS, UEFI x64, and grub-mkimage."""
    others: dict[UefiArch, Path] = field(default_factory=dict)
    """Roots that packages of other architectures have been unpacked below."""

    @property
    def mkimage(self) -> Path:
        return self.root / "usr/bin/grub-mkimage"

    @property
    def arches(self) -> tuple[UefiArch, ...]:
        """UEFI x64, and what has been fetched whole."""
        fetched = [a for a in self.others if all(file.is_file() for file, _ in self.needed_for(a))]
        return (UefiArch.X64, *fetched)

    def modules(self, grub: _OwnGrub) -> Path:
        return self._root_of(grub) / "usr/lib/grub" / grub.platform

    def needed(self) -> tuple[tuple[Path, str], ...]:
        """Every file that must be there, with the package that brings it."""
        return (
            (self.mkimage, "grub-common"),
            (self.modules(_BIOS) / "pxeboot.img", _BIOS.package),
            *self._modules_of(_BIOS),
            *self.needed_for(UefiArch.X64),
        )

    def needed_for(self, arch: UefiArch) -> tuple[tuple[Path, str], ...]:
        """Every file that UEFI of this architecture needs, with its package."""
        signed = _UEFI[arch].package.replace("-bin", "-signed")
        return (
            *self._modules_of(_UEFI[arch]),
            (self.signed_disk_grub(arch), signed),
            (self.shim(arch), "shim-signed"),
            (self.signed_grub(arch), signed),
        )

    def shim(self, arch: UefiArch) -> Path:
        return self._root_of(_UEFI[arch]) / f"usr/lib/shim/shim{arch}.efi.signed"

    def signed_grub(self, arch: UefiArch) -> Path:
        """Has the network and looks for /grub/grub.cfg at the server of the DHCP ACK."""
        return self._signed(arch) / f"grubnet{arch}.efi.signed"

    def signed_disk_grub(self, arch: UefiArch) -> Path:
        """Reads its configuration from EFI/debian of the volume that it came from; has no network."""
        return self._signed(arch) / f"grub{arch}.efi.signed"

    def _signed(self, arch: UefiArch) -> Path:
        grub = _UEFI[arch]
        return self._root_of(grub) / "usr/lib/grub" / f"{grub.platform}-signed"

    def _root_of(self, grub: _OwnGrub) -> Path:
        return next((root for arch, root in self.others.items() if _UEFI[arch] is grub), self.root)

    def _modules_of(self, grub: _OwnGrub) -> tuple[tuple[Path, str], ...]:
        names = ("kernel.img", "moddep.lst", *(f"{module}.mod" for module in grub.modules))
        return tuple((self.modules(grub) / name, grub.package) for name in names)


@dataclass(frozen=True, slots=True)
class BootImages:
    """The programs in the directory."""

    directory: Path
    names: tuple[str, ...]
    """Paths below `directory`, which are those in the TFTP tree."""
    rebuilt: bool = False
    """False: they were up to date."""

    uefi: tuple[UefiArch, ...] = ()
    """UEFI of these architectures."""

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.directory / name for name in self.names)


def build_boot_images(
    directory: Path,
    server: IPv4Address,
    debian: DebianFiles | None = None,
    own: Mapping[Firmware, Path] | None = None,
) -> BootImages:
    """Bring the boot programs in `directory` up to date for the appliance at `server`.

    Our own images carry the address of `server`: beside another DHCP server GRUB would ask that one for its files.
    `own`: programs of the administrator's own; they are copied. Raises ServiceError that names what is missing.
    """
    debian = debian or DebianFiles()
    own_files = {own_program(firmware, file.name): file for firmware, file in (own or {}).items()}
    for file in own_files.values():
        if not file.is_file():
            raise ServiceError(f"boot-programs: there is no file {file}: install it, or take it out of the settings")
    missing = sorted({package for file, package in debian.needed() if not file.is_file()})
    if missing:
        raise ServiceError(f"boot programs cannot be made: run `apt install {' '.join(missing)}`")
    names = [BIOS_GRUB]
    for arch in debian.arches:
        names += [arch.shim, arch.signed_grub, arch.own_grub, arch.disk_grub]
    names += own_files
    stamp = directory / _STAMP
    try:
        made_from = _made_from(debian, server, own_files)
        current = stamp.is_file() and stamp.read_text() == made_from
        current = current and all((directory / name).is_file() for name in names)
        if not current:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=directory) as temporary:
                making = Path(temporary)
                for name in names:
                    (making / name).parent.mkdir(parents=True, exist_ok=True)
                _make_grub(_BIOS, making / BIOS_GRUB, server, debian)
                for arch in debian.arches:
                    _make_grub(_UEFI[arch], making / arch.own_grub, server, debian)
                    shutil.copyfile(debian.shim(arch), making / arch.shim)
                    shutil.copyfile(debian.signed_grub(arch), making / arch.signed_grub)
                    shutil.copyfile(debian.signed_disk_grub(arch), making / arch.disk_grub)
                for name, file in own_files.items():
                    shutil.copyfile(file, making / name)
                (making / "stamp").write_text(made_from)
                stamp.unlink(missing_ok=True)
                for name in names:
                    (directory / name).parent.mkdir(parents=True, exist_ok=True)
                    (making / name).replace(directory / name)
                (making / "stamp").replace(stamp)  # last: without it the next start makes all again
    except OSError as error:
        raise ServiceError(f"boot programs cannot be written: {error}") from error
    return BootImages(directory, tuple(names), rebuilt=not current, uefi=debian.arches)


def _make_grub(grub: _OwnGrub, output: Path, server: IPv4Address, debian: DebianFiles) -> None:
    command = (
        str(debian.mkimage),
        f"--format={grub.format}",
        f"--directory={debian.modules(grub)}",
        f"--prefix=(tftp,{server})/grub",
        f"--output={output}",
        *grub.modules,
    )
    try:
        run(command, timeout_s=60)
    except ToolError as error:
        raise ServiceError(f"GRUB for {grub.format} cannot be made: {error}") from error


def _made_from(debian: DebianFiles, server: IPv4Address, own_files: Mapping[str, Path]) -> str:
    """A line for everything that the images depend on."""
    files = [file for file, _ in debian.needed()]
    for arch in debian.arches[1:]:
        files += [file for file, _ in debian.needed_for(arch)]
    files += own_files.values()
    lines = [f"server {server}", *(" ".join(grub.modules) for grub in (_BIOS, *_UEFI.values()))]
    for file in files:
        status = file.stat()
        lines.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    lines += own_files
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() + "\n"
