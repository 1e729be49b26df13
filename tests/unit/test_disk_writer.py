"""Writing an image to a disk: refused where it must be, in any order, and proven by reading it back."""

import dataclasses
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_builders import MIB, a_manifest, partition_file, random_bytes

from imager.disk.scattered import aligned_memory, clear_extents
from imager.disk.writer import DiskTarget
from imager.errors import DiskError, TargetError
from imager.image.chunks import hash_chunk
from imager.image.extents import cut_windows
from imager.image.manifest import Chunk, Extent, ImageKind, Manifest, Partition
from imager.image.plan import full_bitmap, parse_bitmap

SIZE = 4 * MIB + 512 * 3
EXTENTS = (Extent(0, 4096), Extent(65_536, 512), Extent(MIB - 4096, 8192), Extent(3 * MIB, MIB), Extent(4 * MIB, 1536))


def an_image(extents: tuple[Extent, ...] = EXTENTS, size: int = SIZE, seed: int = 5) -> tuple[Manifest, list[bytes]]:
    """A manifest of random bytes and the raw bytes of its chunks."""
    source = random_bytes(size, seed)
    chunks, raws = [], []
    for window, inside in cut_windows(extents, MIB):
        raw = b"".join(source[e.offset : e.offset + e.length] for e in inside)
        chunks.append(Chunk(window, inside, hash_chunk(raw), len(raw), 1))
        raws.append(raw)
    return a_manifest(source_bytes=size, layout=(), table="none", chunks=tuple(chunks)), raws


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"\xaa" * SIZE)
    return path


def test_chunks_are_written_in_any_order_and_nothing_else_is_touched(disk: Path) -> None:
    manifest, raws = an_image()
    order = list(range(len(raws)))
    random.Random(3).shuffle(order)
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        assert target.scan() == full_bitmap(len(raws))
        for i in order:
            assert not target.read_back(manifest.chunks[i])
            target.write_chunk(manifest.chunks[i], raws[i])
            assert target.read_back(manifest.chunks[i])
        target.finish()
    expected = bytearray(b"\xaa" * SIZE)
    source = random_bytes(SIZE, 5)
    for extent in EXTENTS:
        expected[extent.offset : extent.offset + extent.length] = source[extent.offset : extent.offset + extent.length]
    assert disk.read_bytes() == bytes(expected)


def test_a_scan_finds_what_the_disk_already_holds(disk: Path) -> None:
    manifest, raws = an_image()
    seen: list[tuple[int, int]] = []
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        for i in (0, 3):
            target.write_chunk(manifest.chunks[i], raws[i])
        assert parse_bitmap(target.scan(lambda done, total: seen.append((done, total))), 4) == [1, 2]
    assert seen[-1] == (manifest.used_bytes, manifest.used_bytes)


def a_large_image(count: int) -> tuple[Manifest, bytes]:
    """So many chunks of one block each, the first of zeros."""
    source = bytes(4096) + random_bytes((count - 1) * 4096, 9)
    raws = [source[at : at + 4096] for at in range(0, len(source), 4096)]
    chunks = tuple(Chunk(i, (Extent(i * 4096, 4096),), hash_chunk(raw), 4096, 1) for i, raw in enumerate(raws))
    return a_manifest(source_bytes=len(source), window_bytes=4096, layout=(), table="none", chunks=chunks), source


def test_a_disk_that_holds_none_of_an_image_is_not_read_whole(tmp_path: Path) -> None:
    manifest, source = a_large_image(4000)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(len(source)))
    seen: list[int] = []
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        assert parse_bitmap(target.scan(lambda done, total: seen.append(done)), 4000) == list(range(1, 4000))
    assert set(seen) == {0, len(source)}


def test_a_disk_that_holds_a_tenth_of_an_image_is_known_to_the_chunk(tmp_path: Path) -> None:
    manifest, source = a_large_image(4000)
    disk = tmp_path / "disk"
    disk.write_bytes(source[: 400 * 4096] + bytes(3600 * 4096))
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        assert parse_bitmap(target.scan(), 4000) == list(range(400, 4000))


def test_one_changed_byte_on_the_disk_is_found_by_reading_back(disk: Path) -> None:
    manifest, raws = an_image()
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        for chunk, raw in zip(manifest.chunks, raws, strict=True):
            target.write_chunk(chunk, raw)
        with disk.open("r+b") as file:
            file.seek(3 * MIB + 77)
            file.write(b"\0")
        assert [target.read_back(chunk) for chunk in manifest.chunks] == [True, True, False, True]
        assert parse_bitmap(target.scan(), 4) == [2]


def test_zeros_that_belong_to_the_image_are_told_from_a_blank_disk(tmp_path: Path) -> None:
    blank = tmp_path / "blank"
    with blank.open("wb") as file:
        file.truncate(2 * MIB)
    zeros = Chunk(0, (Extent(0, MIB),), hash_chunk(bytes(MIB)), MIB, 1)
    data = Chunk(1, (Extent(MIB, 512),), hash_chunk(b"x" * 512), 512, 1)
    manifest = a_manifest(source_bytes=2 * MIB, layout=(), table="none", chunks=(zeros, data))
    with DiskTarget(blank, manifest) as target:
        target.check_target()
        assert parse_bitmap(target.scan(), 2) == [1]


def test_long_extents_go_past_the_page_cache(disk: Path) -> None:
    manifest, raws = an_image()
    room = aligned_memory(MIB)
    with DiskTarget(disk, manifest) as target, disk.open("rb") as file:
        target.check_target()
        room[:MIB] = raws[2]
        target.write_chunk(manifest.chunks[2], room[:MIB])
        with pytest.raises(BlockingIOError):  # nothing of it is in memory
            os.preadv(file.fileno(), [bytearray(4096)], 3 * MIB, os.RWF_NOWAIT)
        assert target.read_back(manifest.chunks[2])


def test_zeros_are_cleared_and_not_written_where_the_disk_can(disk: Path) -> None:
    zeros = Chunk(1, (Extent(MIB, 2 * MIB),), hash_chunk(bytes(2 * MIB)), 2 * MIB, 1)
    manifest = a_manifest(source_bytes=SIZE, window_bytes=2 * MIB, layout=(), table="none", chunks=(zeros,))
    before = disk.stat().st_blocks
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        target.write_chunk(zeros, bytes(2 * MIB))
        assert target.read_back(zeros)
        target.finish()
    assert before - disk.stat().st_blocks >= 2 * MIB // 512
    assert disk.read_bytes() == b"\xaa" * MIB + bytes(2 * MIB) + b"\xaa" * (SIZE - 3 * MIB)


def test_zeros_that_do_not_read_back_are_written(disk: Path) -> None:
    zeros = Chunk(1, (Extent(MIB, MIB),), hash_chunk(bytes(MIB)), MIB, 1)
    manifest = a_manifest(source_bytes=SIZE, layout=(), table="none", chunks=(zeros,))
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        target.write_chunk(zeros, bytes(MIB))
        with disk.open("r+b") as file:
            file.seek(MIB)
            file.write(b"\xaa" * MIB)  # as from a disk that does not keep its word
        assert not target.read_back(zeros)
        before = disk.stat().st_blocks
        target.write_chunk(zeros, bytes(MIB))
        assert target.read_back(zeros)
    assert disk.stat().st_blocks == before


def test_what_cannot_be_cleared_says_so() -> None:
    with open("/dev/null", "wb") as null:
        assert not clear_extents(null.fileno(), "/dev/null", (Extent(0, 4096),))


def test_extents_that_are_no_multiple_of_a_sector_are_proven_too(tmp_path: Path) -> None:
    manifest, raws = an_image((Extent(0, 7), Extent(100, 3), Extent(MIB + 1, 999)), 2 * MIB)
    odd = tmp_path / "odd"
    odd.write_bytes(bytes(2 * MIB))
    with DiskTarget(odd, manifest) as target:
        target.check_target()
        for chunk, raw in zip(manifest.chunks, raws, strict=True):
            target.write_chunk(chunk, raw)
            assert target.read_back(chunk)
        assert parse_bitmap(target.scan(), 2) == []


def test_thousands_of_extents_in_one_window_are_written_and_read(tmp_path: Path) -> None:
    extents = tuple(Extent(at, 512) for at in range(0, 2 * MIB, 1024))
    manifest, raws = an_image(extents, 2 * MIB)
    path = tmp_path / "fragments"
    path.write_bytes(bytes(2 * MIB))
    with DiskTarget(path, manifest) as target:
        target.check_target()
        for chunk, raw in zip(manifest.chunks, raws, strict=True):
            target.write_chunk(chunk, raw)
        assert parse_bitmap(target.scan(), 2) == []


def test_an_empty_image_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with DiskTarget(tmp_path / "empty", a_manifest(source_bytes=0, layout=(), table="none", chunks=())) as target:
        target.check_target()
        assert target.scan() == b""
        target.finish()


def refused(device: Path, manifest: Manifest) -> str:
    before = device.read_bytes() if device.is_file() else None
    with DiskTarget(device, manifest) as target, pytest.raises(TargetError) as caught:
        target.check_target()
    assert before == (device.read_bytes() if device.is_file() else None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_smaller_disk_is_refused_with_numbers(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(SIZE - 512))
    said = refused(small, an_image()[0])
    assert str(SIZE) in said and str(SIZE - 512) in said and "512 more" in said


def test_what_is_not_a_disk_is_refused(tmp_path: Path) -> None:
    manifest = an_image()[0]
    assert "does not exist" in refused(tmp_path / "none", manifest)
    assert "neither" in refused(tmp_path, manifest)
    assert "neither" in refused(Path("/dev/null"), manifest)


def test_an_image_of_a_file_is_not_written_to_a_disk(disk: Path) -> None:
    assert "is a file" in refused(disk, dataclasses.replace(an_image()[0], kind=ImageKind.FILE, sector_bytes=1))


def test_nothing_is_written_before_the_check(disk: Path) -> None:
    manifest, raws = an_image()
    with pytest.raises(ValueError):
        DiskTarget(disk, manifest).write_chunk(manifest.chunks[0], raws[0])


def test_a_disk_that_ends_early_is_an_error_with_its_offset(disk: Path) -> None:
    manifest, _ = an_image()
    with DiskTarget(disk, manifest) as target:
        target.check_target()
        os.truncate(disk, 3 * MIB)
        with pytest.raises(DiskError) as caught:
            target.read_back(manifest.chunks[2])
    assert caught.value.offset == 3 * MIB and caught.value.device == str(disk)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A blank block device of 8 MiB."""
    with (tmp_path / "backing").open("wb") as file:
        file.truncate(8 * MIB)
    command = ["losetup", "--find", "--show", tmp_path / "backing"]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
def test_a_block_device_is_written_and_proven(loop: Path, tmp_path: Path) -> None:
    manifest, raws = an_image()
    with DiskTarget(loop, manifest) as target:
        target.check_target()
        for chunk, raw in zip(manifest.chunks, raws, strict=True):
            target.write_chunk(chunk, raw)
            assert target.read_back(chunk)
        target.finish()
    data = (tmp_path / "backing").read_bytes()
    assert data[3 * MIB : 4 * MIB] == random_bytes(SIZE, 5)[3 * MIB : 4 * MIB]


@pytest.mark.root
def test_reading_back_a_block_device_does_not_believe_the_page_cache(loop: Path, tmp_path: Path) -> None:
    manifest, raws = an_image()
    with DiskTarget(loop, manifest) as target:
        target.check_target()
        target.write_chunk(manifest.chunks[2], raws[2])
        assert target.read_back(manifest.chunks[2])
        loop.read_bytes()  # the page cache of the loop device holds the good bytes
        with (tmp_path / "backing").open("r+b") as file:  # the disk beneath changes
            file.seek(3 * MIB)
            file.write(b"rot")
        with loop.open("rb") as cached:
            cached.seek(3 * MIB)
            assert cached.read(3) == raws[2][:3]
        assert not target.read_back(manifest.chunks[2])


@pytest.mark.root
def test_a_mounted_disk_is_refused_and_named(loop: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", loop, tmp_path / "mnt"], check=True)
    try:
        for name in (loop, tmp_path / "backing"):
            with DiskTarget(name, an_image()[0]) as target, pytest.raises(TargetError, match="is mounted on"):
                target.check_target()
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)


@pytest.mark.root
def test_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "backing").open("wb") as file:
        file.truncate(8 * MIB)
    command = ["losetup", "--find", "--show", "--read-only", tmp_path / "backing"]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        with DiskTarget(device, an_image()[0]) as target, pytest.raises(TargetError, match="read-only"):
            target.check_target()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
def test_a_disk_with_other_sectors_is_refused_for_a_partitioned_image(loop: Path) -> None:
    manifest = dataclasses.replace(an_image()[0], table="gpt", sector_bytes=4096)
    assert "sectors of 512" in refused(loop, manifest)


def test_the_backup_gpt_moves_to_the_end_of_a_larger_disk(tmp_path: Path) -> None:
    source = partition_file(tmp_path / "source", 8 * MIB, "label: gpt\nsize=2MiB,type=L\n").read_bytes()
    extents = (Extent(0, MIB), Extent(8 * MIB - 33 * 512, 33 * 512))
    chunks = []
    for window, inside in cut_windows(extents, MIB):
        raw = b"".join(source[e.offset : e.offset + e.length] for e in inside)
        chunks.append((Chunk(window, inside, hash_chunk(raw), len(raw), 1), raw))
    layout = (Partition(1, MIB, 2 * MIB, "83", "", "", ""),)
    manifest = a_manifest(source_bytes=8 * MIB, layout=layout, table="gpt", chunks=tuple(c for c, _ in chunks))
    larger = tmp_path / "larger"
    with larger.open("wb") as file:
        file.truncate(20 * MIB)
    with DiskTarget(larger, manifest) as target:
        target.check_target()
        for chunk, raw in chunks:
            target.write_chunk(chunk, raw)
        target.finish()
    done = subprocess.run(["sfdisk", "--verify", larger], capture_output=True, text=True, check=False)
    assert "No errors detected" in done.stdout and done.returncode == 0
