"""What a path is and who uses it, by the kernel's own word. Partition nodes are made as the kernel makes them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_builders import MIB, a_manifest, a_tree, make_ext4, partition_file

from imager.disk.devices import NotADisk, inspect, part_of, user_of
from imager.disk.writer import DiskTarget
from imager.errors import SourceError, TargetError
from imager.image.capture import plan_capture

START, SIZE = 2 * MIB, 40 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A block device with an ext4 partition 1, whose node exists."""
    image = partition_file(tmp_path / "image", 64 * MIB, "label: gpt\nstart=2MiB,size=40MiB,type=L\n")
    make_ext4(image, START, SIZE, a_tree(tmp_path))
    command = ["losetup", "--find", "--show", "--partscan", image]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    # a kernel that does not read GPT gets its partition by hand; on others this one is there already
    numbers = [str(START // 512), str(SIZE // 512)]
    subprocess.run(["addpart", device, "1", *numbers], check=False, capture_output=True)
    yield device
    subprocess.run(["delpart", device, "1"], check=False, capture_output=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def test_files_and_missing_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(1000))
    found = inspect(tmp_path / "image")
    assert (found.size_bytes, found.is_block, found.is_partition) == (1000, False, False)
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(NotADisk):
            inspect(path)
    assert user_of(tmp_path / "image") is None


@pytest.mark.root
def test_a_partition_is_told_from_its_disk_and_its_node_is_used(disk: Path) -> None:
    node = Path(f"{disk}p1")
    assert not inspect(disk).is_partition and inspect(node).is_partition
    with part_of(disk, START, SIZE) as part:
        assert part == node
    with part_of(disk, START, SIZE - MIB) as part:  # no partition is there: a loop device that goes away
        assert part.name.startswith("loop") and inspect(part).size_bytes == SIZE - MIB and inspect(part).read_only
    assert subprocess.run(["losetup", part], check=False, capture_output=True).returncode != 0
    assert plan_capture(disk).used_bytes < 30 * MIB
    assert plan_capture(node).layout.filesystem == "ext4"


@pytest.mark.root
def test_a_disk_with_a_mounted_partition_is_neither_read_nor_written(disk: Path, tmp_path: Path) -> None:
    node, mount = Path(f"{disk}p1"), tmp_path / "mnt"
    mount.mkdir()
    subprocess.run(["mount", "-o", "ro", node, mount], check=True)
    try:
        for path in (disk, node, tmp_path / "image"):
            assert user_of(path) == f"{node} is mounted on {mount}"
            with pytest.raises(SourceError, match="unmount"):
                plan_capture(path)
            with pytest.raises(TargetError, match="unmount"):
                DiskTarget(path, a_manifest()).check_target()
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.root
def test_a_mount_in_another_namespace_is_noticed(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    script = 'mount -o ro "$0" "$1" && echo mounted && read -r _'
    command = ["unshare", "--mount", "sh", "-c", script, f"{disk}p1", tmp_path / "mnt"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        try:
            assert other.stdout.readline() == b"mounted\n"
            for path in (disk, tmp_path / "image"):
                assert "another mount namespace" in str(user_of(path))
        finally:
            other.stdin.close()
    assert user_of(disk) is None


@pytest.mark.root
def test_an_image_of_a_disk_is_not_written_to_a_partition(disk: Path) -> None:
    with pytest.raises(TargetError, match="is a partition"):
        DiskTarget(Path(f"{disk}p1"), a_manifest()).check_target()


@pytest.mark.root
def test_nobody_can_mount_a_disk_while_it_is_a_target(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    command = ["mount", "-o", "ro", f"{disk}p1", tmp_path / "mnt"]
    with DiskTarget(disk, a_manifest()) as target:
        target.check_target()
        assert subprocess.run(command, check=False, capture_output=True).returncode != 0
        with pytest.raises(TargetError, match="in use"):
            DiskTarget(disk, a_manifest()).check_target()


@pytest.mark.root
def test_a_disk_that_is_swap_is_in_use(tmp_path: Path) -> None:
    with (tmp_path / "swap").open("wb") as file:
        file.truncate(8 * MIB)
    command = ["losetup", "--find", "--show", tmp_path / "swap"]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    try:
        subprocess.run(["mkswap", device], check=True, capture_output=True)
        subprocess.run(["swapon", device], check=True)
        try:
            assert user_of(device) == f"{device} is in use as swap"
        finally:
            subprocess.run(["swapoff", device], check=True)
        assert user_of(device) is None
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
