"""WIM files made by wimlib: imported whole, applied onto NTFS, compared through ntfs-3g's tools."""

import os
import subprocess
from pathlib import Path

import pytest
from image_builders import MIB, a_store, a_tree, partition_file

from imager.errors import SourceError, TargetError
from imager.files.wim import apply_wim, import_wim, make_ntfs_volume, read_wim_info
from imager.image.chunks import Decompressor
from imager.image.manifest import ImageKind
from imager.image.store import StoredImage
from imager.image.verify import verify_image

UTF8 = {**os.environ, "LC_ALL": "C.UTF-8"}
UMLAUT = "Benutzer/J\u00f6rg M\u00fcller/\u00dcbung.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = a_tree(tmp_path)
    (root / UMLAUT).parent.mkdir(parents=True)
    (root / UMLAUT).write_text("Guten Tag\n")
    return root


def a_wim(tree: Path, path: Path, *options: str, name: str = "Lab PC") -> Path:
    command = ["wimlib-imagex", "capture", tree, path, name, "--compress=XPRESS", *options]
    subprocess.run(command, check=True, capture_output=True, env=UTF8)
    return path


def a_device(tmp_path: Path, size: int = 64 * MIB) -> Path:
    device = tmp_path / "volume"
    with device.open("wb") as file:
        file.truncate(size)
    return device


def file_on(device: Path, name: str) -> bytes:
    return subprocess.run(["ntfscat", device, name], check=True, capture_output=True, env=UTF8).stdout


def all_files_of(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_wimlibs_description_becomes_facts_and_every_byte_is_kept(tree: Path, tmp_path: Path) -> None:
    wim, store = a_wim(tree, tmp_path / "lab.wim"), a_store(tmp_path)
    command = ["wimlib-imagex", "append", tree, wim, "Second & <last>"]
    subprocess.run(command, check=True, capture_output=True, env=UTF8)
    manifest = import_wim(wim, store, "win")
    assert manifest.kind is ImageKind.FILE and manifest.version == 1 and manifest.table == "none"
    assert manifest.facts["wim.images"] == "2" and manifest.facts["wim.pipable"] == "no"
    assert manifest.facts["wim.1.name"] == "Lab PC" and manifest.facts["wim.2.name"] == "Second & <last>"
    assert manifest.facts["wim.1.bytes"] == str(sum(len(data) for data in all_files_of(tree).values()))
    stored = StoredImage(manifest, store)
    raw = b"".join(Decompressor().open(stored.read(i), c.raw_bytes, c.hash) for i, c in enumerate(manifest.chunks))
    assert raw == wim.read_bytes()
    assert verify_image(store, "win").ok


def test_an_applied_wim_has_every_file(tree: Path, tmp_path: Path) -> None:
    wim, device = a_wim(tree, tmp_path / "lab.wim"), a_device(tmp_path)
    apply_wim(wim, device, 1, make_volume=True, label="Lab")
    files = all_files_of(tree)
    assert UMLAUT in files
    for name, data in files.items():
        assert file_on(device, name) == data, name


def test_a_pipable_wim_is_applied_from_a_stream_onto_a_volume_that_exists(tree: Path, tmp_path: Path) -> None:
    wim, device = a_wim(tree, tmp_path / "lab.wim", "--pipable"), a_device(tmp_path)
    assert read_wim_info(wim).is_pipable
    make_ntfs_volume(device)
    with wim.open("rb") as stream:
        apply_wim(stream, device, 1)
    assert file_on(device, UMLAUT) == b"Guten Tag\n"


@pytest.mark.root
def test_a_wim_is_applied_onto_a_block_device(tree: Path, tmp_path: Path) -> None:
    wim, backing = a_wim(tree, tmp_path / "lab.wim"), a_device(tmp_path)
    command = ["losetup", "--find", "--show", backing]
    loop = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        apply_wim(wim, loop, 1, make_volume=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
    assert file_on(backing, UMLAUT) == b"Guten Tag\n"


def test_what_is_no_wim_is_not_imported(tree: Path, tmp_path: Path) -> None:
    store = a_store(tmp_path)
    wim = a_wim(tree, tmp_path / "lab.wim").read_bytes()
    for content in (b"", b"not a wim at all", b"MSWIM\0\0\0", wim[:1000], wim[:-300]):
        bad = tmp_path / "bad.wim"
        bad.write_bytes(content)
        with pytest.raises(SourceError, match=r"bad\.wim"):
            import_wim(bad, store, "win")
    with pytest.raises(SourceError):
        import_wim(tmp_path / "none.wim", store, "win")
    assert store.images() == []


def test_one_part_of_a_split_wim_is_refused(tree: Path, tmp_path: Path) -> None:
    wim = a_wim(tree, tmp_path / "lab.wim")
    subprocess.run(["wimlib-imagex", "split", wim, tmp_path / "part.swm", "0.2"], check=True, capture_output=True)
    assert len(list(tmp_path.glob("*.swm"))) > 1
    with pytest.raises(SourceError, match="join"):
        read_wim_info(tmp_path / "part.swm")


def test_nothing_is_written_where_a_wim_does_not_belong(tree: Path, tmp_path: Path) -> None:
    wim = a_wim(tree, tmp_path / "lab.wim")
    blank = a_device(tmp_path)
    small = tmp_path / "small"
    small.write_bytes(bytes(4096))
    disk = partition_file(tmp_path / "disk", 64 * MIB, "label: gpt\nsize=8MiB,type=L\n")
    before = disk.read_bytes()
    for device, make_volume, words in (
        (blank, False, "not an NTFS volume"),
        (small, True, "4096 bytes"),
        (disk, True, "partition table"),
        (tmp_path / "none", True, "does not exist"),
        (Path("/dev/null"), True, "neither"),
    ):
        with pytest.raises(TargetError, match=words):
            apply_wim(wim, device, 1, make_volume=make_volume)
    with pytest.raises(SourceError, match="it has 1"):
        apply_wim(wim, blank, 2, make_volume=True)
    with pytest.raises(SourceError, match="not a pipable WIM"), wim.open("rb") as stream:
        apply_wim(stream, blank, 1, make_volume=True)
    assert not blank.read_bytes().strip(b"\0") and disk.read_bytes() == before
