"""Small disks that say on the serial line that they were started: one for a BIOS, one for UEFI."""

import os
from dataclasses import dataclass
from pathlib import Path

from imager.programs import run

LOCAL_SAYS = "this is the local disk"
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class SignedChain:
    """Debian's signed shim and GRUB for disks, for one kind of UEFI."""

    letters: str
    """In the names of UEFI programs."""
    platform: str
    """As GRUB names it."""

    @property
    def shim(self) -> str:
        return f"usr/lib/shim/shim{self.letters}.efi.signed"

    @property
    def grub(self) -> str:
        return f"usr/lib/grub/{self.platform}-signed/grub{self.letters}.efi.signed"


X64 = SignedChain("x64", "x86_64-efi")
IA32 = SignedChain("ia32", "i386-efi")
ARM64 = SignedChain("aa64", "arm64-efi")


def make_bios_disk(path: Path) -> Path:
    """A disk whose boot sector writes LOCAL_SAYS to the serial port when told that it came from the first disk."""
    code = bytes.fromhex(
        "fa"  # cli
        "80fa80 75fe"  # cmp dl, 0x80; jne $     the BIOS number of the disk
        "31c0 8ed8"  # xor ax, ax; mov ds, ax
        "be 407c"  # mov si, 0x7c40          the text
        "fc ac"  # cld; next: lodsb
        "84c0 74fe"  # test al, al; jz $
        "88c4 bafd03"  # mov ah, al; mov dx, 0x3fd
        "ec a820 74fb"  # in al, dx; test al, 0x20; jz $-3
        "baf803 88e0 ee"  # mov dx, 0x3f8; mov al, ah; out dx, al
        "ebe9"  # jmp next
    )
    sector = code.ljust(0x40, b"\0") + f"\r\n{LOCAL_SAYS}\r\n".encode() + b"\0"
    path.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(2 << 20))
    return path


def make_uefi_disk(path: Path, loader: str = "", chain: SignedChain = X64, root: Path = Path("/")) -> Path:
    """A GPT disk whose ESP has Debian's signed shim at EFI/`loader`, its GRUB beside it, and a grub.cfg that speaks.

    `loader`: where Debian's installer puts it, unless another place is named. `root`: where the packages' files are.
    """
    loader = loader or f"debian/shim{chain.letters}.efi"
    mib = 1 << 20
    esp = path.with_suffix(".esp")
    esp.write_bytes(b"")
    os.truncate(esp, 48 * mib)
    run(["mformat", "-F", "-i", esp, "::"])
    folder = loader.rpartition("/")[0]
    for directory in dict.fromkeys(("EFI", f"EFI/{folder}", "EFI/debian")):
        run(["mmd", "-i", esp, f"::{directory}"])
    configuration = path.with_suffix(".cfg")
    configuration.write_text(f"echo '{LOCAL_SAYS}'\nsleep 600\n")
    run(["mcopy", "-i", esp, root / chain.shim, f"::EFI/{loader}"])
    run(["mcopy", "-i", esp, root / chain.grub, f"::EFI/{folder}/grub{chain.letters}.efi"])
    run(["mcopy", "-i", esp, configuration, "::EFI/debian/grub.cfg"])
    path.write_bytes(b"")
    os.truncate(path, 64 * mib)
    layout = f"label: gpt\nstart=2048, size={48 * mib // _SECTOR}, type=uefi\n"
    run(["sfdisk", "--quiet", path], stdin=layout.encode())
    with path.open("r+b") as disk:
        disk.seek(2048 * _SECTOR)
        disk.write(esp.read_bytes())
    return path
