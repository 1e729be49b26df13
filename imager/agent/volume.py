"""Where a file image goes: memory to receive it in, and an NTFS volume on the target to apply it to.

The target gets a new partition table, as the firmware wants it: GPT with an EFI system partition for UEFI, MBR for
BIOS. The result holds the files of the WIM; boot files (bcdboot's work) are not made here.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imager.customise.linux import partition_node
from imager.disk.devices import NotADisk, inspect, user_of
from imager.disk.partitions import read_layout
from imager.errors import TargetError
from imager.files.wim import make_ntfs_volume
from imager.programs import run
from imager.wire.messages import FirmwareKind

MIB = 1 << 20
KEPT_MEMORY_BYTES = 192 * MIB
"""Left to the programs while a file image fills the rest."""
OVERHEAD_BYTES = 512 * MIB
"""Of partitions and NTFS's own tables, beside the files."""

_GPT = """label: gpt
size=260MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI system partition"
size=16MiB, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE, name="Microsoft reserved partition"
type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name="Basic data partition"
"""
_MBR = """label: dos
type=7, bootable
"""


def check_volume_target(disk: Path, files_bytes: int) -> None:
    """Refuse, with TargetError, a disk that cannot take a volume of `files_bytes`. Writes nothing."""
    try:
        found = inspect(disk)
    except NotADisk as error:
        raise TargetError(f"{error}; nothing was written") from error
    user = user_of(disk)
    if found.read_only or user is not None:
        raise TargetError(f"{user or f'{disk} is read-only'}; nothing was written")
    if found.size_bytes < files_bytes + OVERHEAD_BYTES:
        raise TargetError(
            f"{disk} has {found.size_bytes} bytes, the files of the image need {files_bytes + OVERHEAD_BYTES}; "
            "nothing was written"
        )


def make_volume(disk: Path, firmware: FirmwareKind, say: Callable[[str], None]) -> Path:
    """Divide `disk` anew and make an empty NTFS volume on it: all it held is lost. Returns the volume's device."""
    uefi = firmware is FirmwareKind.UEFI
    table = _GPT if uefi else _MBR
    run(["sfdisk", "--quiet", "--wipe=always", "--wipe-partitions=always", disk], stdin=table.encode(), timeout_s=60)
    parts = {part.number: part for part in read_layout(disk, inspect(disk).size_bytes).partitions}
    volume = partition_node(disk, parts[3 if uefi else 1])
    if uefi:
        run(["mkfs.fat", "-F", "32", "-n", "SYSTEM", partition_node(disk, parts[1])])
    make_ntfs_volume(volume, "Windows")
    say(f"{disk}: new {'GPT' if uefi else 'MBR'}, NTFS on {volume}")
    return volume


@contextmanager
def scratch_file(size_bytes: int, receiver_bytes: int, meminfo: Path = Path("/proc/meminfo")) -> Iterator[Path]:
    """A place in memory for a file of `size_bytes`. Raises TargetError when the memory does not suffice.

    receiver_bytes: what receiving will take beside it; it is not yet in use when the file is made.
    """
    match = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.M)
    available = int(match[1]) * 1024 - KEPT_MEMORY_BYTES - receiver_bytes if match else 0
    if size_bytes > available:
        raise TargetError(
            f"a file image of {size_bytes // MIB} MiB is received in memory first, and this machine has "
            f"{max(0, available) // MIB} MiB to spare; nothing was written"
        )
    with tempfile.TemporaryDirectory(prefix="roomcast-file-") as directory:
        run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes + MIB},mode=700", "tmpfs", directory])
        try:
            yield Path(directory) / "image.wim"
        finally:
            run(["umount", directory])
