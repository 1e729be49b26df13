"""A FAT16 volume with a few files in it, as one stream of bytes. Pure.

Source: Microsoft, FAT: General Overview of On-Disk Format, version 1.03. Short names (8.3) only, upper case; every file
lies in one piece.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_SECTOR_BYTES = 512
_CLUSTER_BYTES = 8192
_ENTRY_BYTES = 32
_ROOT_ENTRIES = 512
_LEAST_CLUSTERS = 4200
"""Fewer than 4,085 would make it FAT12 (section "FAT type determination")."""
_MOST_CLUSTERS = 65524
_DIRECTORY = 0x10
_ARCHIVE = 0x20
_END_OF_CHAIN = 0xFFFF


@dataclass(slots=True)
class _Directory:
    files: dict[str, int] = field(default_factory=dict)
    """Path of a file by its name."""
    directories: dict[str, "_Directory"] = field(default_factory=dict)
    cluster: int = 0


def fat_volume(sizes: Mapping[str, int]) -> Iterator[bytes | str]:
    """The volume in order: bytes to write, or the path of a file whose content comes next.

    `sizes`: bytes of every file by its path (`EFI/BOOT/BOOTX64.EFI`). What a file lacks to whole clusters follows it.
    Raises ValueError for a name that is not 8.3, and for more than a FAT16 volume holds (about 512 MiB).
    """
    root = _Directory()
    order = list(sizes)
    for index, path in enumerate(order):
        *parents, name = path.upper().split("/")
        directory = root
        for parent in parents:
            directory = directory.directories.setdefault(parent, _Directory())
        directory.files[name] = index
    chains: list[int] = []
    cluster = 2
    directories = list(_walk(root))
    for directory in directories:
        directory.cluster = cluster
        chains.append(1)
        cluster += 1
    starts = []
    for path in order:
        length = -(-sizes[path] // _CLUSTER_BYTES)
        starts.append(cluster if length else 0)
        if length:
            chains.append(length)
        cluster += length
    clusters = max(cluster - 2, _LEAST_CLUSTERS)
    if clusters > _MOST_CLUSTERS:
        raise ValueError(f"{clusters} clusters are more than a FAT16 volume has")
    table = _table(chains)
    table_sectors = -(-(clusters + 2) * 2 // _SECTOR_BYTES)
    yield _boot_sector(clusters, table_sectors)
    yield table.ljust(table_sectors * _SECTOR_BYTES, b"\0")
    files = [(starts[i], sizes[path]) for i, path in enumerate(order)]
    yield _entries(root, files).ljust(_ROOT_ENTRIES * _ENTRY_BYTES, b"\0")
    parents_of = {id(child): parent for parent in (root, *directories) for child in parent.directories.values()}
    for directory in directories:
        dots = _entry(b".".ljust(11), _DIRECTORY, directory.cluster, 0)
        dots += _entry(b"..".ljust(11), _DIRECTORY, parents_of[id(directory)].cluster, 0)
        content = dots + _entries(directory, files)
        if len(content) > _CLUSTER_BYTES:
            raise ValueError("a directory with too many files")
        yield content.ljust(_CLUSTER_BYTES, b"\0")
    for path in order:
        yield path
        yield bytes(-sizes[path] % _CLUSTER_BYTES)
    for _ in range(clusters - (cluster - 2)):
        yield bytes(_CLUSTER_BYTES)


def _walk(directory: _Directory) -> Iterator[_Directory]:
    for child in directory.directories.values():
        yield child
        yield from _walk(child)


def _boot_sector(clusters: int, table_sectors: int) -> bytes:
    root_sectors = _ROOT_ENTRIES * _ENTRY_BYTES // _SECTOR_BYTES
    per_cluster = _CLUSTER_BYTES // _SECTOR_BYTES
    total = 1 + table_sectors + root_sectors + clusters * per_cluster
    small = total if total < 0x10000 else 0
    sector = b"\xeb\x3c\x90" + b"ROOMCAST"
    sector += struct.pack("<HBHBHHBHHHII", _SECTOR_BYTES, per_cluster, 1, 1, _ROOT_ENTRIES, small, 0xF8, table_sectors,
                          63, 255, 0, 0 if small else total)  # fmt: skip
    sector += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0x524F4F4D, b"NO NAME    ", b"FAT16   ")
    return sector.ljust(510, b"\0") + b"\x55\xaa"


def _table(chains: Iterable[int]) -> bytes:
    """`chains`: how many clusters each file and directory has, in their order on the volume."""
    entries = [0xFFF8, _END_OF_CHAIN]
    for length in chains:
        entries += range(len(entries) + 1, len(entries) + length)
        entries.append(_END_OF_CHAIN)
    return struct.pack(f"<{len(entries)}H", *entries)


def _entries(directory: _Directory, files: list[tuple[int, int]]) -> bytes:
    found = [_entry(_short(n), _DIRECTORY, child.cluster, 0) for n, child in directory.directories.items()]
    found += [_entry(_short(n), _ARCHIVE, *files[index]) for n, index in directory.files.items()]
    return b"".join(found)


def _entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    return struct.pack("<11sB14xHI", name, attributes, cluster, size)


def _short(name: str) -> bytes:
    stem, _, extension = name.partition(".")
    if not (0 < len(stem) <= 8 and len(extension) <= 3 and (stem + extension).isalnum() and name.isascii()):
        raise ValueError(f"not an 8.3 name: {name}")
    return stem.ljust(8).encode() + extension.ljust(3).encode()
