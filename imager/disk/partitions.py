"""The partition table of a disk or of an image file, as sfdisk and blkid see it."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imager.errors import SourceError, ToolError
from imager.image.manifest import Partition
from imager.programs import run

_EXTENDED = {"5", "f", "85"}
"""MBR types of a partition that holds other partitions."""
_LARGEST_EBR_CHAIN = 256


@dataclass(frozen=True, slots=True)
class Layout:
    """How a source is divided."""

    table: str
    """gpt, dos or none."""
    partitions: tuple[Partition, ...]
    """With table `none`: none, and the whole source may be one file system."""
    filesystem: str
    """Of the whole source, when the table is `none`; empty when blkid knows none."""
    containers: tuple[tuple[int, int], ...] = ()
    """(start, size) in bytes of extended partitions: they hold logical partitions, and no bytes of their own."""
    boot_records: tuple[int, ...] = ()
    """Offsets of the extended boot records (EBR) that chain logical partitions."""


def read_layout(source: Path, source_bytes: int) -> Layout:
    """Read the table of `source`. Raises SourceError when a table is there but makes no sense."""
    whole = probe_filesystem(source, 0, source_bytes)
    # the superblock of a former whole-disk file system may outlive the table that replaced it
    if whole and not has_partition_table(source):
        return Layout("none", (), whole)
    try:
        found = json.loads(run(["sfdisk", "--json", source]))["partitiontable"]
    except ToolError as error:
        if error.status != 1:
            raise
        return Layout("none", (), "")  # sfdisk: does not contain a recognized partition table
    except (ValueError, KeyError) as error:
        raise SourceError(f"sfdisk gave no usable answer about {source}: {error}") from error
    if found["label"] not in ("gpt", "dos"):
        raise SourceError(f"{source} has a partition table of type {found['label']}; GPT and MBR can be imaged")
    sector = int(found.get("sectorsize", 512))
    rows: list[dict[str, Any]] = found.get("partitions", [])
    containers = []
    partitions = []
    for row in rows:
        start, size = int(row["start"]) * sector, int(row["size"]) * sector
        if start + size > source_bytes:
            raise SourceError(
                f"partition {row['node']} of {source} ends at byte {start + size}, but the disk has {source_bytes}; "
                "the image file is truncated or its table is that of another disk"
            )
        if found["label"] == "dos" and row["type"].lower() in _EXTENDED:
            containers.append((start, size))
            continue
        number = _number(row["node"], str(found["device"]))
        name, uuid = str(row.get("name", "")), str(row.get("uuid", "")).lower()
        filesystem = probe_filesystem(source, start, size)
        partitions.append(Partition(number, start, size, str(row["type"]).lower(), name, uuid, filesystem))
    records = tuple(r for start, _ in containers for r in _ebr_chain(source, start, sector, source_bytes))
    return Layout(str(found["label"]), tuple(partitions), "", tuple(containers), records)


def probe_filesystem(source: Path, offset: int, size: int) -> str:
    """The file system's name as blkid knows it (ext4, ntfs, vfat, swap, crypto_LUKS ...); empty when it knows none."""
    if size == 0:
        return ""
    command = ["blkid", "-p", "-s", "TYPE", "-o", "value", "-O", str(offset), "-S", str(size), str(source)]
    try:
        return run(command).strip()
    except ToolError as error:
        if error.status in (2, 8):  # nothing found; more than one found
            return ""
        raise


def has_partition_table(source: Path) -> bool:
    """Whether blkid sees a partition table on `source`, of a type that we read."""
    try:
        return run(["blkid", "-p", "-s", "PTTYPE", "-o", "value", source]).strip() in ("gpt", "dos")
    except ToolError as error:
        if error.status in (2, 8):
            return False
        raise


def _number(node: str, device: str) -> int:
    digits = node.removeprefix(device).lstrip("p")
    if not digits.isdecimal():
        raise SourceError(f"sfdisk names a partition of {device} {node!r}: its number is not clear")
    return int(digits)


def _ebr_chain(source: Path, container: int, sector: int, source_bytes: int) -> list[int]:
    """Each EBR's second entry is the offset of the next one, relative to the extended partition."""
    offsets: list[int] = []
    at = container
    with source.open("rb") as file:
        while at + 512 <= source_bytes and at not in offsets and len(offsets) < _LARGEST_EBR_CHAIN:
            file.seek(at)
            record = file.read(512)
            if record[510:] != b"\x55\xaa":
                break
            offsets.append(at)
            following = struct.unpack_from("<I", record, 462 + 8)[0]
            if following == 0:
                break
            at = container + following * sector
    return offsets
