"""May the allocation map of a file system be believed?

After a power cut a journal holds changes that the map does not show yet: blocks that are in use look free. An image
made by that map would lose them without a word. partclone checks NTFS and FAT for this, and of ext only a flag that a
journal makes useless; the rest is checked here. Never a parser: one flag of each superblock.
"""

import struct
from pathlib import Path

from imager.disk.devices import loop_device
from imager.errors import ToolError
from imager.programs import run

_NOT_CLEAN = "it was not cleanly unmounted"


def why_not_clean(device: Path, filesystem: str) -> str:
    """Why the map of the file system on `device` is not to be believed; empty when it is. Raises OSError."""
    if filesystem in ("ext3", "ext4"):
        # Documentation/filesystems/ext4/super.rst: s_feature_incompat, bit 0x4 = INCOMPAT_RECOVER
        return _NOT_CLEAN if _number(device, 1024 + 0x60, "<I") & 0x4 else ""
    if filesystem == "btrfs":
        # fs/btrfs: superblock at 64 KiB, log_root at 0x60; not 0 when a log tree waits to be replayed
        return _NOT_CLEAN if _number(device, 65536 + 0x60, "<Q") else ""
    if filesystem == "exfat":
        # exFAT specification, section 3.1.13.2: VolumeDirty
        return _NOT_CLEAN if _number(device, 106, "<H") & 0x2 else ""
    if filesystem == "xfs":
        return _xfs_log(device)
    return ""


def _number(device: Path, offset: int, layout: str) -> int:
    with device.open("rb") as file:
        file.seek(offset)
        data = file.read(struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise OSError(f"no superblock at byte {offset}")
    number: int = struct.unpack(layout, data)[0]
    return number


def _xfs_log(device: Path) -> str:
    try:
        if device.is_block_device():
            said = run(["xfs_logprint", "-t", device])
        else:  # of a file it would believe that all of it is a log
            with loop_device(device, 0, device.stat().st_size) as loop:
                said = run(["xfs_logprint", "-t", loop])
    except ToolError as error:
        return "xfs_logprint is not installed" if error.status == 127 else f"its log cannot be read: {error}"
    return "" if "<CLEAN>" in said else _NOT_CLEAN
