"""What a path is: a disk, a partition, a file; its size, its sectors, and who uses it."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imager.errors import ToolError
from imager.programs import run

_BLKGETSIZE64 = 0x80081272
_BLKSSZGET = 0x1268
_BLKROGET = 0x125E
_BLKFLSBUF = 0x1261
_BLKRRPART = 0x125F

FILE_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Device:
    """A block device or a regular file that stands for one."""

    path: Path
    size_bytes: int
    sector_bytes: int
    """Logical; 512 for a file."""
    is_block: bool
    is_partition: bool
    read_only: bool


class NotADisk(ValueError):
    """The path is neither a block device nor a regular file; `str()` says what it is."""


def inspect(path: Path) -> Device:
    """Look at `path`. Raises NotADisk, also when nothing is there."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return Device(path, status.st_size, FILE_SECTOR_BYTES, False, False, not os.access(path, os.W_OK))
        if not stat.S_ISBLK(status.st_mode):
            raise NotADisk(f"{path} is neither a block device nor an image file")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
            sector = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))[0]
            read_only = struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))[0]
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise NotADisk(f"{path} does not exist") from error
    except OSError as error:
        raise NotADisk(f"{path} cannot be opened: {error.strerror}") from error
    return Device(path, size, sector, True, (_sysfs(status.st_rdev) / "partition").exists(), bool(read_only))


def user_of(path: Path) -> str | None:
    """Who uses this disk, one of its partitions or this image file; None when nobody does.

    Looks at mounts (FUSE too), swap, device mapper and md, at loop devices on top of a file, and asks the kernel.
    """
    status = path.stat()
    numbers: dict[str, str] = {}
    if stat.S_ISBLK(status.st_mode):
        numbers = _device_tree(status.st_rdev)
    else:
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            if _same_file(backing.read_text().rstrip("\n"), path):
                loop = backing.parent.parent
                numbers[(loop / "dev").read_text().strip()] = loop.name
                for part in loop.glob("*/partition"):
                    numbers[(part.parent / "dev").read_text().strip()] = part.parent.name
    for number, name in numbers.items():
        holders = Path("/sys/dev/block") / number / "holders"
        for holder in sorted(holders.iterdir()) if holders.exists() else ():
            return f"/dev/{name} is in use by /dev/{holder.name}"
    for number, source, where in _mounts():
        if number in numbers:
            return f"/dev/{numbers[number]} is mounted on {where}"
        if source.startswith("/") and (_same_file(source, path) or _number_of(source) in numbers):
            return f"{source} is mounted on {where}"
    for swap in _swaps():
        if _same_file(swap, path) or _number_of(swap) in numbers:
            return f"{swap} is in use as swap"
    for name in numbers.values():
        if _is_claimed(Path("/dev") / name):
            return f"/dev/{name} is in use by another program, or is mounted in another mount namespace"
    return None


def drop_cache(descriptor: int) -> None:
    """Forget what the kernel cached of a block device or file, so that the next read reads the disk.

    A disk and its partitions have caches of their own: what was written through a partition is on the disk after it
    was closed, but a stale page of the whole disk may still be in memory.
    """
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        try:
            fcntl.ioctl(descriptor, _BLKFLSBUF)
        except OSError:
            pass
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def fsync_device(path: Path) -> None:
    """Flush what was written to `path`, by whomever. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reread_partitions(descriptor: int) -> bool:
    """Make the kernel read the partition table again; False when it cannot (a device in use, a loop without them)."""
    try:
        fcntl.ioctl(descriptor, _BLKRRPART)
    except OSError:
        return False
    return True


@contextmanager
def part_of(source: Path, start_bytes: int, size_bytes: int) -> Iterator[Path]:
    """What shows `size_bytes` of `source` from `start_bytes` alone, to be read.

    `source` itself when that is all of it; the kernel's node of that partition when there is one; else a loop
    device, which the kernel detaches as soon as its last user is gone, also when this process is killed.
    """
    node = find_partition(source, start_bytes, size_bytes)
    if node is not None:
        yield node
        return
    with loop_device(source, start_bytes, size_bytes) as loop:
        yield loop


def find_partition(source: Path, start_bytes: int, size_bytes: int) -> Path | None:
    """The kernel's node of exactly this part of `source`: itself when it is all of it, None when there is none.

    By place and not by name: after a new table was written the kernel may still hold the old one, and then sda2 is
    where the old partition 2 was.
    """
    status = source.stat()
    if start_bytes == 0 and size_bytes == inspect(source).size_bytes:
        return source
    if not stat.S_ISBLK(status.st_mode):
        return None
    for part in _sysfs(status.st_rdev).glob("*/partition"):
        start, size = (int((part.parent / name).read_text()) * 512 for name in ("start", "size"))
        node = Path("/dev") / part.parent.name.replace("!", "/")
        if (start, size) == (start_bytes, size_bytes) and node.exists():
            return node
    return None


@contextmanager
def loop_device(source: Path, start_bytes: int, size_bytes: int) -> Iterator[Path]:
    """A read-only loop device over a range of `source`. Raises ToolError."""
    place = [f"--offset={start_bytes}", f"--sizelimit={size_bytes}"]
    loop = Path(run(["losetup", "--find", "--show", "--read-only", *place, source]).strip())
    descriptor = -1
    try:
        descriptor = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        _detach(loop)
    try:
        yield loop
    finally:
        os.close(descriptor)


def _is_claimed(device: Path) -> bool:
    """The kernel's own word, when nothing that we can see names the user."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _detach(loop: Path) -> None:
    try:
        run(["losetup", "--detach", loop])  # in use: the kernel remembers it and detaches at the last close
    except ToolError:
        if loop.exists() and (Path("/sys/block") / loop.name / "loop").exists():
            raise


def _sysfs(rdev: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")


def _device_tree(rdev: int) -> dict[str, str]:
    """major:minor to name of a block device and its partitions; of a partition, of itself."""
    top = _sysfs(rdev).resolve()
    numbers = {f"{os.major(rdev)}:{os.minor(rdev)}": top.name}
    for part in top.glob("*/partition"):
        numbers[(part.parent / "dev").read_text().strip()] = part.parent.name
    return numbers


def _mounts() -> Iterator[tuple[str, str, str]]:
    """(major:minor, source, mount point)"""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        words, tail = before.split(), after.split()
        yield words[2], _unescape(tail[1]) if len(tail) > 1 else "", _unescape(words[4])


def _swaps() -> list[str]:
    try:
        lines = Path("/proc/swaps").read_text(errors="surrogateescape").splitlines()[1:]
    except FileNotFoundError:  # a kernel without swap
        return []
    return [_unescape(line.split()[0]) for line in lines if line.strip()]


def _unescape(word: str) -> str:
    for octal, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(octal, char)
    return word


def _same_file(name: str, path: Path) -> bool:
    try:
        return Path(name).samefile(path)
    except (OSError, ValueError):
        return False


def _number_of(name: str) -> str:
    try:
        status = Path(name).stat()
    except (OSError, ValueError):
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if stat.S_ISBLK(status.st_mode) else ""
