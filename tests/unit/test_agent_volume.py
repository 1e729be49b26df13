"""Where a file image is received, and the volume that it is applied to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from image_builders import has_programs

from imager.agent.volume import KEPT_MEMORY_BYTES, MIB, make_volume, scratch_file
from imager.disk.partitions import probe_filesystem
from imager.errors import TargetError
from imager.wire.messages import FirmwareKind


def test_the_receivers_memory_is_not_given_to_the_file(tmp_path: Path) -> None:
    ring, spare = 64 * MIB, 100 * MIB
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 9999999 kB\nMemAvailable: {(KEPT_MEMORY_BYTES + ring + spare) // 1024} kB\n")
    with (
        pytest.raises(TargetError, match=r"101 MiB .* has 100 MiB to spare; nothing was written"),
        scratch_file(spare + MIB, ring, meminfo),
    ):
        pass


@pytest.mark.root
def test_a_file_that_fits_gets_a_place(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemAvailable: {(KEPT_MEMORY_BYTES + 66 * MIB) // 1024} kB\n")
    with scratch_file(2 * MIB, 64 * MIB, meminfo) as path:
        path.write_bytes(bytes(2 * MIB))
    assert not path.exists()


@contextmanager
def a_disk_whose_kernel_knows(image: Path, start: int, size: int) -> Iterator[Path]:
    """A blank disk of 64 MiB with one partition (bytes) in the kernel's own table."""
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    command = ["losetup", "--find", "--show", image]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        subprocess.run(["addpart", device, "1", str(start // 512), str(size // 512)], check=True)
        yield device
        subprocess.run(["delpart", device, "1"], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
@pytest.mark.skipif(not has_programs("mkfs.ntfs"), reason="needs mkfs.ntfs")
def test_a_volume_is_made_where_the_new_table_has_it(tmp_path: Path) -> None:
    with a_disk_whose_kernel_knows(tmp_path / "disk.img", MIB, 63 * MIB) as disk:
        assert make_volume(disk, FirmwareKind.BIOS, print) == Path(f"{disk}p1")
        assert probe_filesystem(disk, MIB, 63 * MIB) == "ntfs"


@pytest.mark.root
def test_no_volume_is_made_where_an_older_table_had_its_partition(tmp_path: Path) -> None:
    with a_disk_whose_kernel_knows(tmp_path / "disk.img", 8 * MIB, 32 * MIB) as disk:
        with pytest.raises(TargetError, match="no device for partition 1"):
            make_volume(disk, FirmwareKind.BIOS, print)
        assert probe_filesystem(disk, 8 * MIB, 32 * MIB) == ""
