"""Gives a Linux disk its identity: finds the root file system, mounts it, makes the planned changes, unmounts.

Never follows a link of the image out of it: files are replaced, and a directory that is a link is left alone.
"""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imager.customise.identity import (
    KEY_TYPES,
    READ_FILES,
    Change,
    MakeHostKeys,
    RootFacts,
    WriteFile,
    build_mark,
    plan_identity,
)
from imager.disk.devices import find_partition, inspect
from imager.disk.partitions import Layout, read_layout
from imager.errors import TargetError
from imager.image.manifest import Partition
from imager.programs import run
from imager.wire.messages import Identity

ROOT_FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
_UNREACHED = ("LVM2_member", "crypto_LUKS", "linux_raid_member", "zfs_member", "bcachefs", "f2fs")
"""Names of blkid for what may hold a Linux root that we cannot get at."""
_SUBVOLUMES = ("@", "@rootfs", "root")
"""Where distributions put the root in btrfs, when the volume does not mount it by default."""
_LARGEST_TEXT_BYTES = 1 << 20

NOTHING = Identity("", new_machine_id=False, new_host_keys=False)
"""The identity that leaves a system as its image is."""

Say = Callable[[str], None]


def customise_disk(disk: Path, identity: Identity, owner: str, say: Say) -> bool:
    """Give the Linux on `disk` the identity of `owner` (from name_owner).

    False when there is none, and nothing on the disk that could hold one: another system's disk is left alone.
    Raises TargetError for a hostname that is none, for a disk that holds Linux in a way that cannot be reached, or
    when the kernel does not know the disk's partitions; ToolError when a root file system that is there cannot be
    mounted or its keys cannot be made.
    """
    if identity == NOTHING:
        say("no identity was asked for")
        return False
    layout = read_layout(disk, inspect(disk).size_bytes)
    for node, filesystem in volumes_of(disk, layout):
        for option, places in [("", ()), ("subvolid=5", _SUBVOLUMES)] if filesystem == "btrfs" else [("", ())]:
            with mounted(node, filesystem, option) as top:
                root = find_root(top, places)
                if root is None:
                    continue
                say(f"{node}: {filesystem}, {_pretty_name(root)}")
                for line in customise_root(root, identity, owner):
                    say(line)
                return True
    if held := _linux_of(layout):
        raise TargetError(
            f"{disk} holds {held}, but no Linux root file system that can be given an identity: capture the image from "
            f"a system with its root on a plain partition ({', '.join(ROOT_FILESYSTEMS)}; no LVM, LUKS or RAID)"
        )
    say("no Linux on the disk: its identity stays as it is")
    return False


def customise_root(root: Path, identity: Identity, owner: str) -> list[str]:
    """Make the changes below `root`; a line for each. A second run makes none."""
    changes = plan_identity(read_facts(root), identity, secrets.token_hex(16), owner)
    for change in changes:
        apply_change(root, change, identity.hostname)
    mark = build_mark(read_facts(root), owner)
    if mark is not None:
        apply_change(root, mark, identity.hostname)
    return [_describe(change) for change in changes] or ["identity: nothing to change"]


def volumes_of(disk: Path, layout: Layout) -> list[tuple[Path, str]]:
    """The volumes of `disk` that may hold a Linux root, each with its file system's name. Raises TargetError."""
    if not layout.partitions:
        return [(disk, layout.filesystem)] if layout.filesystem in ROOT_FILESYSTEMS else []
    return [
        (partition_node(disk, part), part.filesystem)
        for part in layout.partitions
        if part.filesystem in ROOT_FILESYSTEMS
    ]


def partition_node(disk: Path, part: Partition) -> Path:
    """The kernel's device of a partition. Raises TargetError when it has none at that place of that size."""
    node = find_partition(disk, part.start_bytes, part.size_bytes)
    if node is None:
        raise TargetError(
            f"the kernel has no device for partition {part.number} of {disk} ({part.size_bytes} bytes at byte "
            f"{part.start_bytes}): it still knows an older partition table; restart the machine and deploy again"
        )
    return node


@contextmanager
def mounted(node: Path, filesystem: str, option: str = "") -> Iterator[Path]:
    """`node` mounted for writing, nothing on it runnable. Flushed and unmounted at the end."""
    directory = Path(tempfile.mkdtemp(prefix="roomcast-root-"))
    try:
        options = "nosuid,nodev,noexec,noatime" + (f",{option}" if option else "")
        run(["mount", "-t", filesystem, "-o", options, node, directory])
        try:
            yield directory
        finally:
            run(["umount", directory])
    finally:
        with contextlib.suppress(OSError):  # still mounted: never remove what is in it
            directory.rmdir()


def find_root(top: Path, places: Sequence[str] = ()) -> Path | None:
    """The first of `top` and the directories `places` below it that is a Linux root."""
    for root in [top, *(top / name for name in places if _is_plain_directory(top, name))]:
        if is_linux_root(root):
            return root
    return None


def is_linux_root(root: Path) -> bool:
    """os-release(5) is there; the name in etc is usually a link."""
    return any(os.path.lexists(root / name) for name in ("etc/os-release", "usr/lib/os-release"))


def read_facts(root: Path) -> RootFacts:
    """What plan_identity wants to know of the tree below `root`."""
    files = {name: text for name in READ_FILES if (text := _read_inside(root, name)) is not None}
    ssh = root / "etc/ssh"
    has_ssh = _is_plain_directory(root, "etc/ssh")
    types = [kind for kind in KEY_TYPES if has_ssh and (ssh / f"ssh_host_{kind}_key").is_file()]
    public = [_read_inside(root, f"etc/ssh/ssh_host_{kind}_key.pub") or "" for kind in types]
    return RootFacts(files, has_ssh, has_ssh and (ssh / "sshd_config").is_file(), tuple(types), "".join(public))


def apply_change(root: Path, change: Change, hostname: str) -> None:
    """Make one change. A file is replaced whole, or stays as it was."""
    match change:
        case WriteFile(path=path, text=text, mode=mode):
            parent = str(Path(path).parent)
            if not _is_plain_directory(root, parent):
                _make_directory(root, parent)
            temporary = root / f"{path}.roomcast-new"
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with open(descriptor, "w") as file:
                os.fchmod(descriptor, mode)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(root / path)
        case MakeHostKeys(types=types):
            ssh = root / "etc/ssh"
            for old in ssh.glob("ssh_host_*_key*"):
                if old.is_symlink() or old.is_file():  # a directory is somebody's own, and no key
                    old.unlink()
            comment = f"root@{hostname}" if hostname else "root@localhost"
            for kind in types:
                key = ssh / f"ssh_host_{kind}_key"
                if key.exists() or key.with_name(f"{key.name}.pub").exists():
                    continue  # what was not a file stays, and in its place there can be no key
                run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", key], timeout_s=600)
                for made, mode in ((key, 0o600), (key.with_name(f"{key.name}.pub"), 0o644)):
                    made.chmod(mode)
                    os.chown(made, 0, 0)


def _linux_of(layout: Layout) -> str:
    """What of `layout` may hold a Linux root, for a person; empty when nothing does."""
    suspects = (*ROOT_FILESYSTEMS, *_UNREACHED)
    found = [
        f"{part.filesystem} in partition {part.number}" for part in layout.partitions if part.filesystem in suspects
    ]
    return ", ".join(found) or (layout.filesystem if layout.filesystem in suspects else "")


def _make_directory(root: Path, name: str) -> None:
    path = root
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise TargetError(f"/{path.relative_to(root)} of the image is not a directory: the identity is not written")
        path.mkdir(exist_ok=True)


def _is_plain_directory(root: Path, name: str) -> bool:
    """A directory that is reached without a link."""
    path = root
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink() or not path.is_dir():
            return False
    return True


def _read_inside(root: Path, name: str) -> str | None:
    """Text of a regular file that is reached without a link; None when there is none."""
    if not _is_plain_directory(root, str(Path(name).parent)):
        return None
    try:
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(_LARGEST_TEXT_BYTES).decode(errors="replace")


def _pretty_name(root: Path) -> str:
    text = _read_inside(root, "usr/lib/os-release") or _read_inside(root, "etc/os-release") or ""
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.M)
    return match[1] if match else "Linux"


def _describe(change: Change) -> str:
    match change:
        case WriteFile(path=path, text=text):
            return f"/{path}: {text.strip()}" if text.count("\n") == 1 else f"/{path}: written"
        case MakeHostKeys(types=types):
            return f"/etc/ssh: new host keys ({', '.join(types)})"
