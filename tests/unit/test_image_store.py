"""The image store: whole or not there, deduplicated, and damage is found and named."""

import subprocess
import sys
from pathlib import Path

import pytest
from image_builders import KEY, MIB, a_manifest, a_store, random_bytes

from imager.errors import ChunkError, ManifestError, StoreError, UnknownImage
from imager.image import packs
from imager.image.chunks import Compressor, Decompressor, hash_chunk
from imager.image.keys import public_key_bytes
from imager.image.manifest import Chunk, Extent, Manifest
from imager.image.packs import load_index, parse_index, rebuild_index
from imager.image.store import ImageStore, StoredImage
from imager.image.verify import verify_image


def image_of(windows: list[bytes], name: str = "lab") -> tuple[Manifest, dict[bytes, tuple[bytes, int]]]:
    """A manifest without version and stored lengths, and the stored chunks by hash."""
    chunks, stored = [], {}
    for i, raw in enumerate(windows):
        digest = hash_chunk(raw)
        stored[digest] = (Compressor().compress(raw), len(raw))
        chunks.append(Chunk(i, (Extent(i * MIB, len(raw)),), digest, len(raw), 0))
    return a_manifest(
        name=name, version=0, source_bytes=len(windows) * MIB, layout=(), table="none", chunks=tuple(chunks)
    ), stored


def publish(store: ImageStore, windows: list[bytes], name: str = "lab") -> Manifest:
    manifest, stored = image_of(windows, name)
    with store.writer() as writer:
        for digest, (data, raw_bytes) in stored.items():
            writer.put(digest, data, raw_bytes)
        return writer.publish(manifest)


WINDOWS = [random_bytes(MIB - 512 * i, seed=i) for i in range(6)]


def packs_of(store: ImageStore) -> list[Path]:
    return sorted(store.root.rglob("*.pack"))


def test_a_published_image_is_read_back_by_another_reader(tmp_path: Path) -> None:
    manifest = publish(a_store(tmp_path), WINDOWS)
    assert manifest.version == 1 and all(chunk.stored_bytes > 0 for chunk in manifest.chunks)
    reader = ImageStore(tmp_path / "images", public_key=public_key_bytes(KEY))
    assert reader.manifest("lab") == manifest
    stored = StoredImage(manifest, reader)
    for i, chunk in enumerate(manifest.chunks):
        data = stored.read(i)
        assert len(data) == stored.stored_lengths[i]
        assert Decompressor().open(data, chunk.raw_bytes, chunk.hash) == WINDOWS[i]
    (summary,) = reader.images()
    assert (summary.name, summary.version, summary.chunk_count) == ("lab", 1, 6)
    assert summary.manifest_hash == manifest.hash.hex()


def test_a_second_version_stores_only_what_is_new(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    first = publish(store, WINDOWS)
    before = packs_of(store)
    second = publish(store, [*WINDOWS[:5], random_bytes(MIB, seed=99)])
    (new,) = set(packs_of(store)) - set(before)
    assert second.version == 2
    assert second.chunks[5].stored_bytes <= new.stat().st_size < 2 * second.chunks[5].stored_bytes
    assert publish(store, WINDOWS).chunks == first.chunks
    assert [s.version for s in store.images()] == [1, 2, 3]
    assert verify_image(store, "lab", 2).ok


def test_two_equal_windows_are_stored_once(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store, [WINDOWS[0]] * 20)
    assert sum(pack.stat().st_size for pack in packs_of(store)) < 2 * MIB
    assert verify_image(store, "lab").ok


def test_leaving_without_publishing_leaves_nothing(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    manifest, stored = image_of(WINDOWS)
    with pytest.raises(RuntimeError), store.writer() as writer:
        for digest, (data, raw_bytes) in stored.items():
            writer.put(digest, data, raw_bytes)
        raise RuntimeError("the capture failed")
    assert packs_of(store) == [] and list((store.root / "writing").iterdir()) == []
    assert store.images() == [] and not store.has(manifest.chunks[0].hash)


def test_a_manifest_with_a_chunk_that_was_never_put_is_not_published(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    manifest, stored = image_of(WINDOWS)
    del stored[manifest.chunks[3].hash]
    with store.writer() as writer:
        for digest, (data, raw_bytes) in stored.items():
            writer.put(digest, data, raw_bytes)
        with pytest.raises(StoreError, match="never put"):
            writer.publish(manifest)
    assert store.images() == [] and packs_of(store) == []


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_image_store import WINDOWS, image_of
from image_builders import a_store
writer = a_store(Path(sys.argv[1])).writer()
for digest, (data, raw_bytes) in image_of(WINDOWS)[1].items():
    writer.put(digest, data, raw_bytes)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_capture_left_is_removed_by_the_next_writer_but_not_a_living_ones(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, Path(__file__).parent], check=False)
    assert done.returncode == -9
    (left,) = (store.root / "writing").iterdir()
    assert any(left.iterdir()) and store.images() == []
    manifest, stored = image_of(WINDOWS)
    with store.writer() as living:
        assert not left.exists()
        for digest, (data, raw_bytes) in stored.items():
            living.put(digest, data, raw_bytes)
        publish(store, WINDOWS[:2], name="other")
        living.publish(manifest)
    assert [s.name for s in store.images()] == ["lab", "other"]
    assert verify_image(store, "lab").ok and verify_image(store, "other").ok


KILLED_WHILE_PUBLISHING = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from imager.image import store
from test_image_store import WINDOWS, publish
from image_builders import a_store
calls = 0
def flush_or_die(path):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
store.fsync_path = flush_or_die
publish(a_store(Path(sys.argv[1])), WINDOWS)
"""


def test_a_publish_that_is_killed_at_any_flush_is_whole_or_not_there(tmp_path: Path) -> None:
    seen = []
    for step in range(1, 9):
        place = tmp_path / str(step)
        place.mkdir()
        command = [sys.executable, "-c", KILLED_WHILE_PUBLISHING, place, Path(__file__).parent, str(step)]
        status = subprocess.run(command, check=False).returncode
        store = a_store(place)
        seen.append((status, len(store.images())))
        if store.images():
            assert verify_image(store, "lab").ok
        again = publish(store, WINDOWS)
        assert again.version == seen[-1][1] + 1 and verify_image(store, "lab").ok
        assert list((store.root / "writing").iterdir()) == []
    # pack, index, manifest, directory: nothing is there; then the rename; then its two parents; then it ended by itself
    assert seen == [(-9, 0)] * 4 + [(-9, 1)] * 2 + [(0, 1)] * 2


def test_chunks_of_another_machine_are_checked_before_they_are_kept(tmp_path: Path) -> None:
    raw = WINDOWS[0]
    with a_store(tmp_path).writer() as writer:
        for stored, raw_bytes in [
            (Compressor().compress(WINDOWS[1]), len(raw)),
            (Compressor().compress(raw), len(raw) - 1),
            (Compressor().compress(raw)[:-1], len(raw)),
            (b"nonsense", 8),
            (b"", 0),
        ]:
            with pytest.raises(ChunkError):
                writer.put(hash_chunk(raw), stored, raw_bytes, verify=True)
        writer.put(hash_chunk(raw), Compressor().compress(raw), len(raw), verify=True)
        assert writer.has(hash_chunk(raw))


def test_a_flipped_bit_is_found_and_its_pack_and_windows_are_named(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store, WINDOWS)
    (pack,) = packs_of(store)
    place = store.locate(hash_chunk(WINDOWS[4]))[0]
    damaged = bytearray(pack.read_bytes())
    damaged[place.entry.offset + 1000] ^= 1
    pack.write_bytes(damaged)
    report = verify_image(store, "lab")
    (problem,) = report.problems
    assert problem.windows == (4,) and problem.pack == str(pack) and "damaged" in problem.what
    with pytest.raises(StoreError, match="damaged"):
        store.read_stored(hash_chunk(WINDOWS[4]))
    assert store.read_stored(hash_chunk(WINDOWS[3]))


def test_a_flipped_bit_anywhere_in_a_pack_is_found(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store, WINDOWS)
    (pack,) = packs_of(store)
    good = pack.read_bytes()
    for at in (0, 5, len(good) // 2, len(good) - 100, len(good) - 5, len(good) - 1):
        damaged = bytearray(good)
        damaged[at] ^= 4
        pack.write_bytes(damaged)
        assert not ImageStore(store.root, KEY).verify("lab").ok, f"byte {at}"
    pack.write_bytes(good)
    assert verify_image(store, "lab").ok


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_missing_or_truncated_pack_is_named_with_all_windows_that_it_held(tmp_path: Path, harm: str) -> None:
    store = a_store(tmp_path)
    publish(store, WINDOWS)
    (pack,) = packs_of(store)
    if harm == "missing":
        pack.unlink()
    else:
        pack.write_bytes(pack.read_bytes()[:100])
    for reader in (store, ImageStore(store.root, KEY)):
        (problem,) = verify_image(reader, "lab").problems
        assert problem.windows == tuple(range(6)) and harm in problem.what and str(pack) in problem.what


def test_a_capture_after_damage_stores_the_lost_chunk_again_and_heals_both_versions(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    first = publish(store, WINDOWS)
    packs_of(store)[0].unlink()
    second = publish(store, WINDOWS)
    fresh = ImageStore(store.root, KEY)
    assert verify_image(fresh, "lab", second.version).ok
    assert StoredImage(first, fresh).read(0) == StoredImage(second, fresh).read(0)
    (problem,) = verify_image(fresh, "lab", first.version).problems
    assert "missing" in problem.what and problem.windows == ()


def test_a_lost_index_is_rebuilt_from_the_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 3 * MIB // 2)
    store = a_store(tmp_path)
    publish(store, WINDOWS)
    directory = store.version_directory("lab", 1)
    assert len(packs_of(store)) == 3
    index = directory / "index"
    stated = parse_index(index.read_bytes())
    assert sorted(stated) == sorted(rebuild_index(directory))
    for content in (b"", b"x" * 100, index.read_bytes()[:-1]):
        index.write_bytes(content)
        assert sorted(load_index(directory)) == sorted(stated)
        fresh = ImageStore(store.root, KEY)
        assert fresh.read_stored(hash_chunk(WINDOWS[5]))
        assert "index" in fresh.verify("lab").problems[0].what


def test_unknown_images_and_versions_are_named(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with pytest.raises(UnknownImage, match="image list"):
        store.manifest("lab")
    publish(store, WINDOWS[:1])
    with pytest.raises(UnknownImage, match="it has 1"):
        store.manifest("lab", 7)
    for name in ("../lab", "", "lab/1", "LAB"):
        with pytest.raises(UnknownImage):
            store.manifest(name)


def test_a_changed_manifest_is_refused_and_not_listed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store, WINDOWS[:1])
    path = store.version_directory("lab", 1) / "manifest"
    path.write_bytes(path.read_bytes().replace(b"golden", b"forged"))
    with pytest.raises(ManifestError):
        store.manifest("lab")
    assert store.images() == []


def test_a_manifest_moved_to_another_name_is_refused(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    publish(store, WINDOWS[:1])
    (store.versions_root / "lab").rename(store.versions_root / "other")
    with pytest.raises(ManifestError, match="another image"):
        store.manifest("other")


def test_a_store_without_a_key_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="reading only"):
        ImageStore(tmp_path).writer()


@pytest.mark.root
def test_a_full_disk_ends_a_capture_with_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path / "images"], check=True)
    try:
        store = a_store(tmp_path)
        manifest, stored = image_of(WINDOWS)
        with store.writer() as writer:
            with pytest.raises(StoreError, match="No space left"):
                for digest, (data, raw_bytes) in stored.items():
                    writer.put(digest, data, raw_bytes)
            with pytest.raises(StoreError, match="No space left"):
                writer.publish(manifest)
        assert store.images() == [] and not list(store.root.rglob("*.pack"))
        publish(store, WINDOWS[:1])
        assert verify_image(store, "lab").ok
    finally:
        subprocess.run(["umount", tmp_path / "images"], check=True)
