"""What root makes in a data directory of the service's user belongs to that user."""

import os
from pathlib import Path

import pytest

from imager.errors import StoreError
from imager.image.keys import load_or_create_signing_key
from imager.image.locks import locked
from imager.image.manifest import ImageKind, Manifest
from imager.image.ownership import hand_over, handing_over
from imager.image.store import ImageStore

SERVICE = (4711, 4712)
SOMEBODY = 4713
pytestmark = pytest.mark.root


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    os.chown(directory, *SERVICE)
    return directory


def test_what_is_roots_goes_to_the_owner_and_the_rest_stays(data: Path, tmp_path: Path) -> None:
    (data / "agent" / "cache").mkdir(parents=True)
    (data / "agent" / "vmlinuz").write_bytes(b"kernel")
    (data / "somebodys").write_bytes(b"")
    os.chown(data / "somebodys", SOMEBODY, SOMEBODY)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"")
    (data / "link").symlink_to(outside)
    (data / "agent" / "link").symlink_to(outside / "file")
    os.link(outside / "file", data / "hard")
    hand_over(data)
    for name in ("agent", "agent/cache", "agent/vmlinuz", "link", "agent/link"):
        assert owner(data / name) == SERVICE, name
    assert owner(data / "somebodys") == (SOMEBODY, SOMEBODY)
    assert owner(outside) == owner(outside / "file") == (0, 0), "links lead root nowhere"


def test_where_root_owns_the_directory_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.chown(tmp_path / "file", SOMEBODY, SOMEBODY)
    hand_over(tmp_path)
    assert owner(tmp_path / "file") == (SOMEBODY, SOMEBODY)


def test_it_is_handed_over_when_the_work_fails_too(data: Path) -> None:
    with pytest.raises(StoreError), handing_over(data):
        (data / "half").write_bytes(b"")
        raise StoreError("no space left")
    assert owner(data / "half") == SERVICE


def test_a_version_is_the_services_from_the_moment_that_it_is_there(data: Path) -> None:
    key = load_or_create_signing_key(data / "keys")
    store = ImageStore(data / "images", key)
    with store.writer() as writer:
        assert {owner(path) for path in (data / "images").rglob("*")} == {SERVICE}, "others may write meanwhile"
        writer.put(b"\1" * 32, b"stored", 6)
        manifest = Manifest("golden", 0, ImageKind.SECTOR, 1_700_000_000, 1 << 20, 512, 1 << 18, (), "none", {}, ())
        writer.publish(manifest)
    made = list((data / "images").rglob("*"))
    assert any(path.name == "manifest" or path.suffix for path in made)
    assert {owner(path) for path in made} == {SERVICE}


def test_a_lock_that_root_makes_is_the_services(data: Path) -> None:
    with locked(data / "lock"):
        assert owner(data / "lock") == SERVICE
