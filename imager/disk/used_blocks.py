"""Which bytes of a source are in use: partclone's maps for file systems, everything for what no program knows.

A part's map ends where its file system ends. Behind it, the last MiB of the part is kept: NTFS keeps a copy of its
boot sector there, md its superblock.
"""

import concurrent.futures
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imager.disk.clean import why_not_clean
from imager.disk.devices import part_of
from imager.disk.partitions import Layout
from imager.errors import SourceError, ToolError
from imager.image.extents import merge_extents
from imager.image.manifest import Extent
from imager.programs import run

PARTCLONE = {
    "ext2": "partclone.extfs",
    "ext3": "partclone.extfs",
    "ext4": "partclone.extfs",
    "ntfs": "partclone.ntfs",
    "vfat": "partclone.fat",
    "exfat": "partclone.exfat",
    "xfs": "partclone.xfs",
    "btrfs": "partclone.btrfs",
}
"""blkid's name of a file system: the program that maps it."""

ALIGN_BYTES = 512
"""Extents begin and end at sectors, so that they can be read and written with O_DIRECT."""
_KEPT_TAIL_BYTES = 1 << 20
_LARGEST_BOOT_GAP_BYTES = 64 << 20
"""Before the first partition: boot code (GRUB's core image; firmware of small boards) lies well within this."""
_BACKUP_GPT_BYTES = 16384
_LINE = re.compile(r"^0x([0-9A-Fa-f]+)\s+0x([0-9A-Fa-f]+)\s+([+?])$")


@dataclass(frozen=True, slots=True)
class UsedBlocks:
    """What a capture reads."""

    extents: tuple[Extent, ...]
    raw_parts: dict[int, str]
    """Partition number (0: the whole source): why it is imaged raw."""


def find_used_blocks(source: Path, source_bytes: int, sector_bytes: int, layout: Layout) -> UsedBlocks:
    """Map every part of `source`. Raises SourceError when a part of it cannot be opened."""
    ranges: list[tuple[int, int]] = []
    raw_parts: dict[int, str] = {}
    if layout.table == "none":
        parts = [(0, 0, source_bytes, layout.filesystem)] if source_bytes else []
    else:
        parts = [(p.number, p.start_bytes, p.size_bytes, p.filesystem) for p in layout.partitions]
        ranges += _around_partitions(source_bytes, sector_bytes, layout)
    # partclone waits a second or two for its own progress display: side by side, the waits are one
    with concurrent.futures.ThreadPoolExecutor(4, "used-blocks") as pool:
        maps = list(pool.map(lambda part: _map_part(source, *part[1:]), parts))
    for (number, start, _size, _), (used, reason) in zip(parts, maps, strict=True):
        ranges += [(start + offset, length) for offset, length in used]
        if reason:
            raw_parts[number] = reason
    return UsedBlocks(merge_extents(ranges, source_bytes, max(ALIGN_BYTES, sector_bytes)), raw_parts)


def parse_domain_map(text: str) -> list[tuple[int, int, bool]]:
    """(offset, length, used) of each line of a ddrescue domain map. Raises ValueError when it is none."""
    rows: list[tuple[int, int, bool]] = []
    header = True
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if header:  # current_pos current_status
            header = False
            continue
        match = _LINE.match(line.strip())
        if match is None:
            raise ValueError(f"not a line of a domain map: {line!r}")
        rows.append((int(match[1], 16), int(match[2], 16), match[3] == "+"))
    if not rows:
        raise ValueError("the domain map is empty")
    return rows


def _map_part(source: Path, start: int, size: int, filesystem: str) -> tuple[list[tuple[int, int]], str]:
    """(used ranges relative to the part, why it is raw or empty)"""
    everything = [(0, size)]
    program = PARTCLONE.get(filesystem)
    if program is None:
        return everything, f"{filesystem} is imaged raw" if filesystem else "no known file system"
    try:
        with part_of(source, start, size) as device, tempfile.TemporaryDirectory(prefix="roomcast-map-") as directory:
            reason = why_not_clean(device, filesystem)
            if reason:
                return everything, f"{filesystem}: {reason}"
            target, log = Path(directory) / "map", Path(directory) / "log"
            run([program, "-D", "-q", "-L", log, "-s", device, "-o", target])
            rows = parse_domain_map(target.read_text())
    except ToolError as error:
        if error.command.startswith("losetup"):
            raise SourceError(f"{source}: no loop device for the part at byte {start}: {error}") from error
        return everything, f"{program} did not map it: {_last_line(error)}"
    except (OSError, ValueError) as error:
        return everything, f"{program} gave no usable map: {error}"
    end = rows[-1][0] + rows[-1][1]
    used = [(offset, length) for offset, length, in_use in rows if in_use]
    if end < size:
        tail = max(end, size - _KEPT_TAIL_BYTES)
        used.append((tail, size - tail))
    return used, ""


def _around_partitions(source_bytes: int, sector_bytes: int, layout: Layout) -> list[tuple[int, int]]:
    """Tables, boot code and the links between logical partitions."""
    starts = sorted([p.start_bytes for p in layout.partitions] + [start for start, _ in layout.containers])
    first = starts[0] if starts else 1 << 20
    ranges = [(0, min(first, _LARGEST_BOOT_GAP_BYTES))]
    if layout.table == "gpt":
        length = _BACKUP_GPT_BYTES + sector_bytes
        ranges.append((source_bytes - length, length))
    ranges += [(record, sector_bytes) for record in layout.boot_records]
    return ranges


def _last_line(error: ToolError) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]", error.output) if line.strip()]
    useful = [line for line in lines if "please check" not in line]
    return (useful or ["no output"])[-1][:200]
