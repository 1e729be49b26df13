"""A GPT's backup is moved so that sfdisk, which we did not write, finds no error."""

import shutil
import subprocess
from pathlib import Path

import pytest
from image_builders import MIB, partition_file

from imager.disk.gpt import parse_header, relocate_backup

SCRIPT = "label: gpt\nsize=1MiB,type=U\nsize=6MiB,type=L,name=root\n"


def relocate(disk: Path) -> None:
    data = disk.read_bytes()
    header = parse_header(data[512:1024])
    entries = data[1024 : 1024 + header.table_bytes]
    with disk.open("r+b") as file:
        for offset, part in relocate_backup(data[:512], data[512:1024], entries, len(data), 512).writes:
            file.seek(offset)
            file.write(part)


def sfdisk_says(disk: Path) -> str:
    done = subprocess.run(["sfdisk", "--verify", disk], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_sfdisk_accepts_the_backup_at_the_end_of_a_larger_disk(tmp_path: Path) -> None:
    disk = partition_file(tmp_path / "disk", 10 * MIB, SCRIPT)
    with disk.open("r+b") as file:
        file.truncate(25 * MIB + 512)
    assert "No errors detected" not in sfdisk_says(disk)  # the backup is not where it should be
    relocate(disk)
    assert "No errors detected" in sfdisk_says(disk)
    before = subprocess.run(["sfdisk", "--dump", disk], capture_output=True, text=True, check=True).stdout
    assert "last-lba: 51167" in before  # 51,201 sectors, less the header and 32 sectors of entries
    with disk.open("r+b") as file:  # the primary is lost: the backup alone must do
        file.seek(512)
        file.write(bytes(33 * 512))
    after = subprocess.run(["sfdisk", "--dump", disk], capture_output=True, text=True, check=False).stdout
    assert [line for line in after.splitlines() if "start=" in line] == [
        line for line in before.splitlines() if "start=" in line
    ]


def test_moving_a_backup_that_is_in_its_place_changes_nothing(tmp_path: Path) -> None:
    disk = partition_file(tmp_path / "disk", 10 * MIB, SCRIPT)
    shutil.copy(disk, tmp_path / "copy")
    relocate(disk)
    assert disk.read_bytes() == (tmp_path / "copy").read_bytes()


def test_a_damaged_gpt_is_not_moved(tmp_path: Path) -> None:
    data = partition_file(tmp_path / "disk", 10 * MIB, SCRIPT).read_bytes()
    mbr, primary, entries = data[:512], data[512:1024], data[1024 : 1024 + 16384]
    for at in range(92):
        damaged = bytearray(primary)
        damaged[at] ^= 1
        with pytest.raises(ValueError):
            relocate_backup(mbr, bytes(damaged), entries, 20 * MIB, 512)
    with pytest.raises(ValueError, match="entries"):
        relocate_backup(mbr, primary, entries[:-1] + b"x", 20 * MIB, 512)
    with pytest.raises(ValueError, match="smaller"):
        relocate_backup(mbr, primary, entries, 9 * MIB, 512)
    with pytest.raises(ValueError):
        parse_header(b"")
