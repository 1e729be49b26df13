"""The boot programs in one directory: our own GRUB for BIOS and UEFI, Debian's signed shim and GRUB for UEFI.

Runs grub-mkimage. Each file is replaced whole, and all are left alone while what they are made of is unchanged.
"""

import dataclasses
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from imager.errors import ToolError
from imager.programs import run
from netboot.errors import ServiceError

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


_BIOS = _OwnGrub("i386-pc-pxe", "i386-pc", "grub-pc-bin", ("pxe", "biosdisk", "pxechain", *_COMMON_MODULES))
_UEFI = _OwnGrub("x86_64-efi", "x86_64-efi", "grub-efi-amd64-bin", ("efinet", "efifwsetup", *_COMMON_MODULES))

_STAMP = "made-from"


@dataclass(frozen=True, slots=True)
class DebianFiles:
    """Where Debian's packages put what we need."""

    root: Path = Path("/")

    @property
    def mkimage(self) -> Path:
        return self.root / "usr/bin/grub-mkimage"

    def modules(self, grub: _OwnGrub) -> Path:
        return self.root / "usr/lib/grub" / grub.platform

    def needed(self) -> tuple[tuple[Path, str], ...]:
        """Every file that is read, with the package that brings it."""
        return (
            (self.mkimage, "grub-common"),
            (self.modules(_BIOS) / "pxeboot.img", _BIOS.package),
            *(
                (self.modules(grub) / name, grub.package)
                for grub in (_BIOS, _UEFI)
                for name in ("kernel.img", "moddep.lst", *(f"{module}.mod" for module in grub.modules))
            ),
            (self.signed_disk_grub, "grub-efi-amd64-signed"),
            (self.shim, "shim-signed"),
            (self.signed_grub, "grub-efi-amd64-signed"),
        )

    @property
    def shim(self) -> Path:
        return self.root / "usr/lib/shim/shimx64.efi.signed"

    @property
    def signed_grub(self) -> Path:
        return self.root / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"

    @property
    def signed_disk_grub(self) -> Path:
        """Reads its configuration from EFI/debian of the volume that it came from; has no network."""
        return self.root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"


@dataclass(frozen=True, slots=True)
class BootImages:
    """The programs in the directory."""

    bios_grub: Path
    uefi_shim: Path
    uefi_signed_grub: Path
    uefi_grub: Path
    uefi_disk_grub: Path
    rebuilt: bool = False
    """False: they were up to date."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.bios_grub, self.uefi_shim, self.uefi_signed_grub, self.uefi_grub, self.uefi_disk_grub)


def build_boot_images(directory: Path, server: IPv4Address, debian: DebianFiles | None = None) -> BootImages:
    """Bring the boot programs in `directory` up to date for the appliance at `server`.

    Our own images carry the address of `server`: beside another DHCP server GRUB would ask that one for its files.
    Raises ServiceError that names the Debian packages which are missing.
    """
    debian = debian or DebianFiles()
    missing = sorted({package for file, package in debian.needed() if not file.is_file()})
    if missing:
        raise ServiceError(f"boot programs cannot be made: run `apt install {' '.join(missing)}`")
    images = BootImages(
        directory / "bios" / "core.0",
        directory / "uefi" / "shimx64.efi",
        directory / "uefi" / "grubx64.efi",
        directory / "uefi" / "grub.efi",
        directory / "uefi" / "grubdisk.efi",
    )
    stamp = directory / _STAMP
    made_from = _made_from(debian, server)
    try:
        current = stamp.is_file() and stamp.read_text() == made_from and all(file.is_file() for file in images.files)
        if not current:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=directory) as temporary:
                making = Path(temporary)
                _make_grub(_BIOS, making / "core.0", server, debian)
                _make_grub(_UEFI, making / "grub.efi", server, debian)
                shutil.copyfile(debian.shim, making / "shimx64.efi")
                shutil.copyfile(debian.signed_grub, making / "grubx64.efi")
                shutil.copyfile(debian.signed_disk_grub, making / "grubdisk.efi")
                (making / "stamp").write_text(made_from)
                stamp.unlink(missing_ok=True)
                for file in images.files:
                    file.parent.mkdir(exist_ok=True)
                    (making / file.name).replace(file)
                (making / "stamp").replace(stamp)  # last: without it the next start makes all again
    except OSError as error:
        raise ServiceError(f"boot programs cannot be written: {error}") from error
    return dataclasses.replace(images, rebuilt=not current)


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


def _made_from(debian: DebianFiles, server: IPv4Address) -> str:
    """A line for everything that the images depend on."""
    lines = [f"server {server}", *(" ".join(grub.modules) for grub in (_BIOS, _UEFI))]
    for file, _package in debian.needed():
        status = file.stat()
        lines.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() + "\n"
