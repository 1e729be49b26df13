"""Who may read the data directory: its owner alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from netboot.persistence.database import open_database
from netboot.persistence.private import make_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_database_and_its_log_are_its_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        database = open_database(tmp_path / "data" / "roomcast.db")
        files = sorted((tmp_path / "data").iterdir())
        modes = {path.name: mode(path) for path in files}
        database.close()
    finally:
        os.umask(mask)
    assert modes == {"roomcast.db": 0o600, "roomcast.db-shm": 0o600, "roomcast.db-wal": 0o600}
    assert mode(tmp_path / "data") == 0o700


def test_directory_that_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    for name in ("images", "keys", "agent"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data").chmod(0o755)
    make_private(tmp_path / "data")
    assert mode(tmp_path / "data") == 0o700


def test_directory_with_files_of_others_stays_open_and_only_secrets_are_closed(tmp_path: Path) -> None:
    for name in ("images", "keys", "website"):
        (tmp_path / "srv" / name).mkdir(parents=True)
        (tmp_path / "srv" / name).chmod(0o755)
    (tmp_path / "srv").chmod(0o755)
    make_private(tmp_path / "srv")
    modes = {path.name: mode(path) for path in (tmp_path / "srv").iterdir()}
    assert mode(tmp_path / "srv") == 0o755
    assert modes == {"images": 0o700, "keys": 0o700, "website": 0o755}


def test_captured_image_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(b"secret" * 100_000)
    command = [sys.executable, "-m", "netboot.cli.main", "image", "capture", str(source), "--name", "disk"]
    data = tmp_path / "data"
    subprocess.run([*command, "--data", str(data)], check=True, umask=0o022, timeout=120, capture_output=True)
    found = [data, *data.rglob("*")]
    assert any(path.suffix == ".pack" for path in found) and any("manifest" in path.name for path in found)
    assert [str(path) for path in found if mode(path) & 0o077] == []
