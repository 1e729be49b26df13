"""Builders of images for tests: a manifest, a store, a disk image with file systems in it."""

import random
import shutil
import subprocess
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imager.image.manifest import Chunk, Extent, ImageKind, Manifest, Partition
from imager.image.store import ImageStore

MIB = 1 << 20
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def a_chunk(window: int, *extents: tuple[int, int], seed: int = 0, stored_bytes: int = 700) -> Chunk:
    """Extents are relative to a window of 1 MiB."""
    placed = tuple(Extent(window * MIB + offset, length) for offset, length in (extents or ((0, MIB),)))
    digest = blake3(f"{seed}/{window}".encode()).digest()
    return Chunk(window, placed, digest, sum(e.length for e in placed), stored_bytes)


def a_manifest(**changes: object) -> Manifest:
    """A disk of 4.5 MiB with two partitions; its last window is short."""
    fields: dict[str, object] = {
        "name": "debian-12",
        "version": 1,
        "kind": ImageKind.SECTOR,
        "created_s": 1_700_000_000,
        "source_bytes": 4 * MIB + MIB // 2,
        "sector_bytes": 512,
        "window_bytes": MIB,
        "layout": (
            Partition(1, MIB, MIB, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ESP", "aaaa", "vfat"),
            Partition(2, 2 * MIB, 2 * MIB, "0fc63daf-8483-4772-8e79-3d69d8477de4", "Wurzel \u00fc", "bbbb", "ext4"),
        ),
        "table": "gpt",
        "facts": {"os": "Debian 12", "hostname": "golden"},
        "chunks": (a_chunk(0), a_chunk(2, (0, 4096), (8192, 512)), a_chunk(4, (4096, MIB // 2 - 4096))),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def a_store(directory: Path) -> ImageStore:
    """An empty store with a known key."""
    return ImageStore(directory / "images", KEY)


def random_bytes(count: int, seed: int) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(seed).randbytes(count)


def has_programs(*names: str) -> bool:
    """Whether these programs of the distribution are installed."""
    return all(shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in names)


def partition_file(path: Path, size_bytes: int, script: str) -> Path:
    """A sparse file with a partition table, from sfdisk's own language."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["sfdisk", "--quiet", path], input=script.encode(), check=True, capture_output=True)
    return path


def make_ext4(path: Path, offset: int, size: int, tree: Path) -> None:
    """An ext4 file system with the files of `tree` inside a disk image, without mounting or loop devices."""
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", f"offset={offset}", "-d", tree, path, f"{size // 1024}k"]
    subprocess.run(command, check=True, capture_output=True)


def a_tree(directory: Path, files: int = 20, seed: int = 1) -> Path:
    """Some files with random and with repeating bytes."""
    tree = directory / "tree"
    tree.mkdir()
    for i in range(files):
        folder = tree / f"folder {i % 3}"
        folder.mkdir(exist_ok=True)
        content = random_bytes(10_000 + 7_001 * i, seed + i) if i % 2 else f"line {i}\n".encode() * 5_000
        (folder / f"file-{i}.dat").write_bytes(content)
    return tree
