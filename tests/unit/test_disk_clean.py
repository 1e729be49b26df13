"""A map that a journal has overtaken is not believed: such a file system is imaged whole."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from image_builders import MIB, a_store

from imager.disk.clean import why_not_clean
from imager.image.capture import capture_image, plan_capture
from imager.image.restore import restore_image


def an_ext4(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, capture_output=True)
    return path


def test_an_ext4_with_a_journal_to_replay_is_imaged_whole(tmp_path: Path) -> None:
    volume = an_ext4(tmp_path / "volume")
    assert why_not_clean(volume, "ext4") == "" and plan_capture(volume).used_bytes < 20 * MIB
    subprocess.run(["debugfs", "-w", "-R", "feature needs_recovery", volume], check=True, capture_output=True)
    plan = plan_capture(volume)
    assert plan.used_bytes == 64 * MIB and "not cleanly unmounted" in plan.raw_parts[0]


def test_one_flag_of_each_superblock_is_read(tmp_path: Path) -> None:
    for filesystem, offset, flag in (("btrfs", 65536 + 0x60, 1), ("exfat", 106, 2)):
        volume = tmp_path / filesystem
        volume.write_bytes(bytes(70_000))
        assert why_not_clean(volume, filesystem) == ""
        with volume.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([flag]))
        assert why_not_clean(volume, filesystem) != ""
    assert why_not_clean(volume, "ntfs") == ""


def test_an_xfs_is_believed_only_when_its_log_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_block_device", lambda self: True)
    program = tmp_path / "xfs_logprint"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in why_not_clean(tmp_path / "volume", "xfs")
    for state, believed in (("<CLEAN>", True), ("<DIRTY>", False)):
        program.write_text(f"#!/bin/sh\necho '    log tail: 2 head: 2 state: {state}'\n")
        program.chmod(0o755)
        assert (why_not_clean(tmp_path / "volume", "xfs") == "") is believed


@pytest.mark.root
def test_a_file_that_only_the_journal_knows_survives_capture_and_restore(tmp_path: Path) -> None:
    volume, mount = an_ext4(tmp_path / "volume"), tmp_path / "mnt"
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", volume, mount], check=True)
    try:
        (mount / "late.txt").write_bytes(b"written before the power cut\n" * 10_000)
        descriptor = os.open(mount / "late.txt", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        shutil.copy(volume, tmp_path / "cut")  # what the disk holds at the power cut
    finally:
        subprocess.run(["umount", mount], check=True)
    store = a_store(tmp_path)
    manifest = capture_image(store, tmp_path / "cut", "cut")
    assert "not cleanly" in manifest.facts["raw.0"]
    restore_image(store, "cut", None, tmp_path / "out")
    subprocess.run(["mount", "-o", "loop", tmp_path / "out", mount], check=True)
    try:
        assert (mount / "late.txt").read_bytes() == b"written before the power cut\n" * 10_000
    finally:
        subprocess.run(["umount", mount], check=True)
