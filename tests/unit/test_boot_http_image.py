"""The volume of UEFI HTTP boot, read by programs that are not ours: fsck.fat and mtools."""

import random
import subprocess
from pathlib import Path

import pytest

from netboot.boot.fat import fat_volume
from netboot.boot.http_image import build


def a_volume(path: Path, files: dict[str, bytes]) -> Path:
    with path.open("wb") as output:
        for part in fat_volume({name: len(content) for name, content in files.items()}):
            output.write(part if isinstance(part, bytes) else files[part])
    return path


def read(volume: Path, name: str) -> bytes:
    return subprocess.run(("mcopy", "-i", str(volume), f"::{name}", "-"), check=True, capture_output=True).stdout


def check(volume: Path) -> None:
    done = subprocess.run(
        ("/usr/sbin/fsck.fat", "-n", "-v", str(volume)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("length", [0, 1, 511, 512, 8191, 8192, 8193, 3_000_000])
def test_other_programs_read_every_file_back_whole(tmp_path: Path, length: int) -> None:
    rng = random.Random(length)
    files = {
        "EFI/BOOT/BOOTX64.EFI": rng.randbytes(length),
        "EFI/BOOT/GRUBX64.EFI": rng.randbytes(20_000),
        "EFI/DEBIAN/GRUB.CFG": b"boot\n",
        "AGENT/VMLINUZ": rng.randbytes(length // 2),
    }
    volume = a_volume(tmp_path / "volume", files)
    check(volume)
    assert {name: read(volume, name) for name in files} == files


def test_a_volume_of_the_agents_size_is_sound(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(45_000_000)
    volume = a_volume(tmp_path / "volume", {"AGENT/INITRD.IMG": content})
    check(volume)
    assert read(volume, "AGENT/INITRD.IMG") == content


def test_names_and_sizes_that_the_file_system_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"8\.3"):
        list(fat_volume({"EFI/a-much-too-long-name.efi": 1}))
    with pytest.raises(ValueError, match="clusters"):
        list(fat_volume({"BIG": 1 << 30}))


def test_the_same_files_and_configuration_make_one_volume(tmp_path: Path) -> None:
    program = tmp_path / "shim"
    program.write_bytes(b"shim")
    files = {"EFI/BOOT/BOOTX64.EFI": program}
    first = build(tmp_path / "http", b"one\n", files)
    assert build(tmp_path / "http", b"one\n", files) == first
    check(first)
    assert read(first, "EFI/DEBIAN/GRUB.CFG") == b"one\n"
    program.write_bytes(b"a newer shim")
    newer = build(tmp_path / "http", b"one\n", files)
    assert newer != first
    assert read(newer, "EFI/BOOT/BOOTX64.EFI") == b"a newer shim"


def test_only_a_few_volumes_are_kept_and_the_newest_is_one_of_them(tmp_path: Path) -> None:
    made = [build(tmp_path / "http", b"%d\n" % n, {}) for n in range(15)]
    kept = set((tmp_path / "http").iterdir())
    assert len(kept) == 12
    assert made[-1] in kept


def test_a_volume_whose_file_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        build(tmp_path / "http", b"", {"GONE": tmp_path / "gone"})
    directory = tmp_path / "file-where-the-directory-belongs"
    directory.write_bytes(b"")
    with pytest.raises(OSError):
        build(directory, b"", {})
    assert not list((tmp_path).glob("http/*"))
