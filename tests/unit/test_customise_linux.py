"""A tree and a real ext4 disk get their identity; links of the image lead nowhere."""

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from image_builders import MIB, make_ext4, partition_file

from imager.customise.identity import MakeHostKeys
from imager.customise.linux import apply_change, customise_disk, customise_root, find_root
from imager.errors import TargetError
from imager.wire.messages import Identity

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk")
needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
IDENTITY = Identity("pc-01")
OWNER = "0" * 64


def a_root(directory: Path) -> Path:
    root = directory / "root"
    for name in ("etc/ssh", "usr/lib", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "etc/hostname").write_text("golden\n")
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\tgolden\n")
    (root / "etc/machine-id").write_text("f" * 32 + "\n")
    (root / "etc/ssh/ssh_host_ed25519_key").write_text("old private\n")
    (root / "etc/ssh/ssh_host_ed25519_key.pub").write_text("ssh-ed25519 OLD root@golden\n")
    return root


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@needs_root
@needs_keygen
def test_a_tree_gets_name_machine_id_and_keys(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    said = customise_root(root, IDENTITY, OWNER)
    assert (root / "etc/hostname").read_text() == "pc-01\n"
    assert "127.0.1.1\tpc-01\n" in (root / "etc/hosts").read_text()
    machine_id = (root / "etc/machine-id").read_text().strip()
    assert len(machine_id) == 32 and machine_id != "f" * 32
    key = root / "etc/ssh/ssh_host_ed25519_key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    public = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    assert public.startswith("ssh-ed25519 ") and public.rstrip().endswith("root@pc-01") and "OLD" not in public
    assert said[0] == "/etc/hostname: pc-01"


@needs_root
@needs_keygen
def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    customise_root(root, IDENTITY, OWNER)
    before = snapshot(root)
    assert customise_root(root, IDENTITY, OWNER) == ["identity: nothing to change"]
    assert snapshot(root) == before


@needs_root
@needs_keygen
def test_two_machines_of_one_image_have_nothing_in_common(tmp_path: Path) -> None:
    roots = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        roots.append(a_root(tmp_path / name))
        customise_root(roots[-1], Identity(f"pc-{name}"), name)
    for file in ("etc/hostname", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key.pub"):
        assert (roots[0] / file).read_text() != (roots[1] / file).read_text()


@needs_root
@needs_keygen
def test_an_image_captured_from_a_deployed_machine_gives_nothing_of_it_to_others(tmp_path: Path) -> None:
    first, second = a_root(tmp_path), tmp_path / "second"
    customise_root(first, Identity("pc-01"), "owner of pc-01")
    shutil.copytree(first, second, symlinks=True)
    customise_root(second, Identity("pc-02"), "owner of pc-02")
    for file in ("etc/hostname", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub"):
        assert (first / file).read_text() != (second / file).read_text()
    before = snapshot(second)
    assert customise_root(second, Identity("pc-02"), "owner of pc-02") == ["identity: nothing to change"]
    assert snapshot(second) == before


def test_a_file_that_is_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    (root / "etc/hostname").unlink()
    (root / "etc/hostname").symlink_to(outside)
    customise_root(root, Identity("pc-01", new_host_keys=False), OWNER)
    assert outside.read_text() == "mine\n"
    assert (root / "etc/hostname").read_text() == "pc-01\n"
    assert not (root / "etc/hostname").is_symlink()


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    outside = tmp_path / "outside"
    shutil.move(root / "etc", outside)
    (root / "etc").symlink_to(outside)
    before = snapshot(outside)
    with pytest.raises(TargetError, match="/etc of the image is not a directory"):
        customise_root(root, IDENTITY, OWNER)
    assert snapshot(outside) == before


def test_a_directory_that_is_named_like_a_key_stays_and_does_no_harm(tmp_path: Path) -> None:
    root = a_root(tmp_path)
    for name in ("ssh_host_old_keys", "ssh_host_rsa_key"):
        (root / "etc/ssh" / name).mkdir()
        (root / "etc/ssh" / name / "note").write_text("mine\n")
    (root / "etc/ssh/ssh_host_dsa_key").symlink_to("/nowhere")
    apply_change(root, MakeHostKeys(("rsa",)), "pc-01")
    assert sorted(path.name for path in (root / "etc/ssh").iterdir()) == ["ssh_host_old_keys", "ssh_host_rsa_key"]
    assert (root / "etc/ssh/ssh_host_rsa_key/note").read_text() == "mine\n"


@pytest.mark.parametrize("place", ["", "@", "@rootfs", "root"])
def test_a_root_is_found_in_the_usual_subvolumes(tmp_path: Path, place: str) -> None:
    top = tmp_path / "top"
    for name in ("@home", "root"):  # root: also root's own home directory
        (top / name).mkdir(parents=True)
    shutil.copytree(a_root(tmp_path), top / place, symlinks=True, dirs_exist_ok=True)
    assert find_root(top, ("@", "@rootfs", "root")) == top / place


def test_a_subvolume_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/@").symlink_to(a_root(tmp_path))
    assert find_root(tmp_path / "top", ("@",)) is None


@contextmanager
def a_loop(image: Path) -> Iterator[Path]:
    """The image as a disk with its partitions; partx, because some kernels read no tables themselves."""
    run = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"no loop device: {run.stderr.strip()}")
    device = Path(run.stdout.strip())
    try:
        subprocess.run(["partx", "--add", device], check=True)
        yield device
        subprocess.run(["partx", "--delete", device], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.root
@needs_root
@needs_keygen
def test_the_root_of_a_real_disk_is_found_and_customised(tmp_path: Path) -> None:
    image = partition_file(tmp_path / "disk.img", 96 * MIB, "label: gpt\nsize=16MiB\nsize=64MiB\n")
    make_ext4(image, 17 * MIB, 64 * MIB, a_root(tmp_path))
    said: list[str] = []
    with a_loop(image) as disk:
        assert customise_disk(disk, IDENTITY, OWNER, said.append)
        assert customise_disk(disk, IDENTITY, OWNER, said.append)
        shown = subprocess.run(["debugfs", "-R", "cat /etc/hostname", f"{disk}p2"], capture_output=True)
    assert shown.stdout == b"pc-01\n"
    assert "ext4, Debian GNU/Linux 12 (bookworm)" in said[0]
    assert said[-1] == "identity: nothing to change"


def a_lvm_label() -> bytes:
    """The sector by which blkid knows a physical volume of LVM2: label, then CRC-32 with LVM's own start value."""
    body = (struct.pack("<I8s", 32, b"LVM2 001") + b"A" * 32).ljust(512 - 20, b"\0")
    checksum = zlib.crc32(body, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return b"LABELONE" + struct.pack("<QI", 1, checksum) + body


def put_bytes(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_disk_without_linux_is_left_alone(tmp_path: Path) -> None:
    image = partition_file(tmp_path / "disk.img", 96 * MIB, "label: gpt\nsize=16MiB\nsize=64MiB\n")
    command = ["mkfs.fat", "--offset", str(17 * MIB // 512), image, str(64 << 10)]
    subprocess.run(command, check=True, capture_output=True)
    before = image.read_bytes()
    said: list[str] = []
    assert not customise_disk(image, IDENTITY, OWNER, said.append)
    assert said == ["no Linux on the disk: its identity stays as it is"]
    assert image.read_bytes() == before


@pytest.mark.root
@needs_root
def test_linux_without_a_root_that_can_be_found_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    image = partition_file(tmp_path / "disk.img", 96 * MIB, "label: gpt\nsize=16MiB\nsize=64MiB\n")
    make_ext4(image, 17 * MIB, 64 * MIB, tmp_path / "tree")
    with a_loop(image) as disk, pytest.raises(TargetError, match="ext4 in partition 2, but no Linux root"):
        customise_disk(disk, IDENTITY, OWNER, print)


def test_linux_inside_lvm_fails_clearly_when_an_identity_was_asked_for(tmp_path: Path) -> None:
    image = partition_file(tmp_path / "disk.img", 96 * MIB, "label: dos\nstart=2048,type=8e\n")
    put_bytes(image, 2049 * 512, a_lvm_label())
    with pytest.raises(TargetError, match=r"holds LVM2_member in partition 1.*no LVM, LUKS or RAID"):
        customise_disk(image, IDENTITY, OWNER, print)
    assert not customise_disk(image, Identity("", new_machine_id=False, new_host_keys=False), OWNER, print)


def test_a_whole_disk_in_luks_fails_clearly(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes((b"LUKS\xba\xbe" + struct.pack(">H", 1)).ljust(MIB, b"\0"))
    with pytest.raises(TargetError, match="holds crypto_LUKS, but no Linux root"):
        customise_disk(image, IDENTITY, OWNER, print)


@pytest.mark.root
@needs_root
def test_a_partition_that_the_kernel_knows_at_its_old_place_is_not_touched(tmp_path: Path) -> None:
    image = partition_file(tmp_path / "disk.img", 96 * MIB, "label: dos\nstart=1MiB,size=32MiB,type=83\n")
    make_ext4(image, MIB, 32 * MIB, a_root(tmp_path))
    make_ext4(image, 40 * MIB, 32 * MIB, tmp_path / "root")
    with a_loop(image) as disk:
        table = b"label: dos\nstart=40MiB,size=32MiB,type=83\n"
        subprocess.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image], input=table, check=True)
        before = image.read_bytes()
        with pytest.raises(TargetError, match=r"no device for partition 1 .* restart the machine"):
            customise_disk(disk, IDENTITY, OWNER, print)
        assert image.read_bytes() == before
