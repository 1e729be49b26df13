"""Capture and restore of whole disk images: what is restored holds the same files and boots the same code."""

import subprocess
from pathlib import Path

import pytest
from image_builders import MIB, a_store, a_tree, make_ext4, partition_file, random_bytes

from imager.disk.devices import user_of
from imager.errors import DiskError, ManifestError, SourceError, UnknownImage
from imager.image import capture
from imager.image.capture import capture_image, capture_source, plan_capture, read_chunks
from imager.image.chunks import Decompressor
from imager.image.manifest import Extent
from imager.image.restore import restore_image
from imager.image.verify import verify_image


def a_volume(directory: Path, size: int = 64 * MIB) -> Path:
    disk = directory / "volume"
    with disk.open("wb") as file:
        file.truncate(size)
    make_ext4(disk, 0, size, a_tree(directory))
    return disk


def file_system_is_clean(volume: Path, offset: int = 0) -> bool:
    name = f"{volume}?offset={offset}" if offset else str(volume)
    return subprocess.run(["e2fsck", "-f", "-n", name], capture_output=True, check=False).returncode == 0


def content(volume: Path, name: str, offset: int = 0) -> bytes:
    where = f"{volume}?offset={offset}" if offset else str(volume)
    command = ["debugfs", "-R", f'cat "{name}"', where]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_a_restored_volume_has_the_same_files(tmp_path: Path) -> None:
    volume, store = a_volume(tmp_path), a_store(tmp_path)
    seen: list[tuple[int, int]] = []
    manifest = capture_image(store, volume, "vol", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (manifest.used_bytes, manifest.used_bytes) and manifest.facts["filesystem"] == "ext4"
    assert manifest.used_bytes < 20 * MIB
    restored = restore_image(store, "vol", None, tmp_path / "out")
    assert restored.written_chunks > 0 and restored.written_bytes > 2 * MIB
    assert file_system_is_clean(tmp_path / "out")
    for i in (3, 4):
        name = f"folder {i % 3}/file-{i}.dat"
        assert content(tmp_path / "out", name) == (tmp_path / "tree" / name).read_bytes() != b""


def test_restoring_again_writes_nothing(tmp_path: Path) -> None:
    volume, store = a_volume(tmp_path), a_store(tmp_path)
    capture_image(store, volume, "vol")
    restore_image(store, "vol", 1, tmp_path / "out")
    with (tmp_path / "out").open("r+b") as file:
        file.seek(1024)
        file.write(b"?")
    assert restore_image(store, "vol", 1, tmp_path / "out").written_chunks == 1
    assert restore_image(store, "vol", 1, tmp_path / "out").written_chunks == 0


def test_a_capture_of_the_same_disk_gives_the_same_chunks(tmp_path: Path) -> None:
    volume, store = a_volume(tmp_path), a_store(tmp_path)
    first, second = (capture_image(store, volume, "vol") for _ in range(2))
    assert first.chunks == second.chunks and (first.version, second.version) == (1, 2)


def test_chunks_come_in_order_with_bytes_that_open_to_their_hash(tmp_path: Path) -> None:
    source = random_bytes(3 * MIB + 100, seed=8)
    (tmp_path / "raw").write_bytes(source)
    windows = []
    for chunk, stored in capture_source(tmp_path / "raw"):
        raw = Decompressor().open(stored, chunk.raw_bytes, chunk.hash)
        assert raw == source[chunk.window * MIB : chunk.window * MIB + len(raw)]
        windows.append(chunk.window)
    assert windows == [0, 1, 2, 3]


def test_known_chunks_are_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(random_bytes(2 * MIB, seed=8))
    first, _ = next(iter(capture_source(tmp_path / "raw")))
    pairs = list(capture_source(tmp_path / "raw", is_known=lambda digest: digest == first.hash))
    assert [bool(stored) for _, stored in pairs] == [False, True]
    assert [chunk.stored_bytes == 0 for chunk, _ in pairs] == [True, False]


def test_an_empty_source_is_an_empty_image(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    store = a_store(tmp_path)
    assert capture_image(store, tmp_path / "empty", "empty").chunks == ()
    assert restore_image(store, "empty", None, tmp_path / "out").written_chunks == 0
    assert verify_image(store, "empty").ok


def test_a_capture_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").write_bytes(random_bytes(8 * MIB, seed=8))
    store = a_store(tmp_path)
    plan = plan_capture(tmp_path / "raw")
    (tmp_path / "raw").write_bytes(random_bytes(5 * MIB, seed=8))  # it shrinks after it was looked at
    monkeypatch.setattr(capture, "plan_capture", lambda source: plan)
    with pytest.raises(DiskError, match="ends before"):
        capture_image(store, tmp_path / "raw", "half")
    assert store.images() == [] and not list(store.root.rglob("*.pack"))
    assert list((store.root / "writing").iterdir()) == []


def test_a_source_that_is_not_there_or_not_a_disk_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for source in (tmp_path / "none", tmp_path, Path("/dev/null")):
        with pytest.raises(SourceError):
            capture_image(store, source, "x")
    with pytest.raises(ManifestError):
        capture_image(store, tmp_path / "none", "Bad Name")
    with pytest.raises(UnknownImage):
        restore_image(store, "nothing", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stopping_early_ends_the_workers(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(random_bytes(20 * MIB, seed=8))
    chunks = read_chunks(tmp_path / "raw", (Extent(0, 20 * MIB),))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(chunks)


@pytest.mark.root
def test_a_partitioned_disk_is_restored_with_boot_code_tables_and_files(tmp_path: Path) -> None:
    script = "label: gpt\nsize=1MiB,type=21686148-6449-6E6F-744E-656564454649\nsize=8MiB,type=U\nsize=48MiB,type=L\n"
    disk = partition_file(tmp_path / "disk", 64 * MIB, script)
    start = 10 * MIB
    make_ext4(disk, start, 48 * MIB, a_tree(tmp_path))
    with disk.open("r+b") as file:
        for offset, mark in ((0, b"boot code"), (20 * 2048, b"core image"), (MIB + 99, b"bios boot partition")):
            file.seek(offset)
            file.write(mark)
    store = a_store(tmp_path)
    loops = subprocess.run(["losetup", "--list", "--noheadings"], capture_output=True, check=True).stdout
    manifest = capture_image(store, disk, "whole")
    after = subprocess.run(["losetup", "--list", "--noheadings"], capture_output=True, check=True).stdout
    assert str(disk).encode() not in after, loops
    assert manifest.table == "gpt" and [p.filesystem for p in manifest.layout] == ["", "", "ext4"]
    restore_image(store, "whole", None, tmp_path / "out")
    original, restored = disk.read_bytes(), (tmp_path / "out").read_bytes()
    assert restored[:start] == original[:start] and restored[-33 * 512 :] == original[-33 * 512 :]
    assert file_system_is_clean(tmp_path / "out", start)
    name = "folder 1/file-1.dat"
    assert content(tmp_path / "out", name, start) == (tmp_path / "tree" / name).read_bytes()


@pytest.mark.root
def test_a_mounted_source_is_refused_and_named(tmp_path: Path) -> None:
    volume = a_volume(tmp_path)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", "-o", "loop,ro", volume, tmp_path / "mnt"], check=True)
    try:
        with pytest.raises(SourceError, match="is mounted on"):
            plan_capture(volume)
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
    assert plan_capture(volume).used_bytes > 0


@pytest.mark.root
def test_a_disk_is_read_alone(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(random_bytes(4 * MIB, 4))
    command = ["losetup", "--find", "--show", image]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        chunks = read_chunks(device, (Extent(0, 4 * MIB),))
        next(chunks)
        with pytest.raises(SourceError, match="in use"):
            next(read_chunks(device, (Extent(0, 4 * MIB),)))
        assert user_of(device) is not None
        chunks.close()  # type: ignore[attr-defined]
        assert user_of(device) is None
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
def test_an_ntfs_volume_and_a_fat_volume_come_back_with_their_files(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for name, make, copy, read in (
        ("ntfs", ["mkntfs", "-F", "-Q", "-q"], ["ntfscp", "-q"], ["ntfscat"]),
        ("fat", ["mkfs.vfat", "-F", "32"], ["mcopy", "-i"], ["mtype", "-i"]),
    ):
        volume = tmp_path / name
        with volume.open("wb") as file:
            file.truncate(80 * MIB)
        subprocess.run([*make, volume], check=True, capture_output=True)
        (tmp_path / "file").write_bytes(b"some lines\n" * 100_000)
        target = "::/file.txt" if name == "fat" else "file.txt"
        words = [volume, tmp_path / "file", target]
        subprocess.run([*copy, *words], check=True, capture_output=True)
        manifest = capture_image(store, volume, name)
        assert manifest.used_bytes < 20 * MIB
        restore_image(store, name, None, tmp_path / f"{name}.out")
        got = subprocess.run([*read, tmp_path / f"{name}.out", target], check=True, capture_output=True).stdout
        assert got.replace(b"\r\n", b"\n") == b"some lines\n" * 100_000
        assert (tmp_path / f"{name}.out").read_bytes()[-512:] == volume.read_bytes()[-512:]  # NTFS: backup boot sector
