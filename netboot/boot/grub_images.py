"""The boot programs: our own GRUB for PXE BIOS, Debian's signed shim and GRUB for UEFI, collected in one directory.

Runs grub-mkimage. Each file is replaced whole, and all are left alone while what they are made of is unchanged.
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from imager.errors import ToolError
from imager.programs import run
from netboot.errors import ServiceError

MODULES = (
    # the network and what is fetched
    *("pxe", "tftp", "http", "net"),
    # the script
    *("normal", "configfile", "test", "true", "regexp", "echo", "cat", "sleep", "minicmd", "loadenv"),
    # consoles
    *("terminal", "serial"),
    # the agent
    *("linux", "gzio"),
    # the machine's own disk
    *("biosdisk", "part_gpt", "part_msdos", "fat", "ext2", "ntfs", "chain", "pxechain"),
    *("search", "search_fs_uuid", "search_fs_file", "search_label", "probe", "smbios"),
    # the way out
    *("reboot", "halt"),
)
"""Built into the image: no machine loads a module over the network."""

_STAMP = "made-from"


@dataclass(frozen=True, slots=True)
class DebianFiles:
    """Where Debian's packages put what we need."""

    root: Path = Path("/")

    @property
    def pxe_modules(self) -> Path:
        return self.root / "usr/lib/grub/i386-pc"

    def needed(self) -> tuple[tuple[Path, str], ...]:
        """Every file that is read, with the package that brings it."""
        return (
            (self.root / "usr/bin/grub-mkimage", "grub-common"),
            (self.pxe_modules / "kernel.img", "grub-pc-bin"),
            (self.pxe_modules / "pxeboot.img", "grub-pc-bin"),
            *((self.pxe_modules / f"{module}.mod", "grub-pc-bin") for module in MODULES),
            (self.shim, "shim-signed"),
            (self.signed_grub, "grub-efi-amd64-signed"),
        )

    @property
    def shim(self) -> Path:
        return self.root / "usr/lib/shim/shimx64.efi.signed"

    @property
    def signed_grub(self) -> Path:
        return self.root / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"


@dataclass(frozen=True, slots=True)
class BootImages:
    """The programs in the directory."""

    bios_grub: Path
    uefi_shim: Path
    uefi_grub: Path
    rebuilt: bool
    """False: they were up to date."""


def build_boot_images(directory: Path, server: IPv4Address, debian: DebianFiles | None = None) -> BootImages:
    """Bring the boot programs in `directory` up to date for the appliance at `server`.

    The BIOS image carries the address of `server`: beside another DHCP server GRUB would ask that one for its files.
    Raises ServiceError that names the Debian packages which are missing.
    """
    debian = debian or DebianFiles()
    missing = sorted({package for file, package in debian.needed() if not file.is_file()})
    if missing:
        raise ServiceError(f"boot programs cannot be made: run `apt install {' '.join(missing)}`")
    images = {
        "bios": directory / "bios" / "core.0",
        "shim": directory / "uefi" / "shimx64.efi",
        "grub": directory / "uefi" / "grubx64.efi",
    }
    stamp = directory / _STAMP
    made_from = _made_from(debian, server)
    try:
        current = stamp.is_file() and stamp.read_text() == made_from and all(file.is_file() for file in images.values())
        if not current:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=directory) as name:
                making = Path(name)
                _make_bios_image(making / "bios", server, debian)
                shutil.copyfile(debian.shim, making / "shim")
                shutil.copyfile(debian.signed_grub, making / "grub")
                (making / "stamp").write_text(made_from)
                stamp.unlink(missing_ok=True)
                for key, file in images.items():
                    file.parent.mkdir(exist_ok=True)
                    (making / key).replace(file)
                (making / "stamp").replace(stamp)  # last: without it the next start makes all again
    except OSError as error:
        raise ServiceError(f"boot programs cannot be written: {error}") from error
    return BootImages(images["bios"], images["shim"], images["grub"], rebuilt=not current)


def _make_bios_image(output: Path, server: IPv4Address, debian: DebianFiles) -> None:
    command = (
        str(debian.root / "usr/bin/grub-mkimage"),
        "--format=i386-pc-pxe",
        f"--directory={debian.pxe_modules}",
        f"--prefix=(tftp,{server})/grub",
        f"--output={output}",
        *MODULES,
    )
    try:
        run(command, timeout_s=60)
    except ToolError as error:
        raise ServiceError(f"the BIOS boot program cannot be made: {error}") from error


def _made_from(debian: DebianFiles, server: IPv4Address) -> str:
    """A line for everything that the images depend on."""
    lines = [f"server {server}", f"modules {' '.join(MODULES)}"]
    for file, _package in debian.needed():
        status = file.stat()
        lines.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() + "\n"
