"""A slow disk: a loop device, and a control group whose processes read and write it at so many bytes/s.

Needs root and the kernel's block I/O controller (cgroup version 1 or 2).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imager.programs import run

_CGROUPS = Path("/sys/fs/cgroup")
_V1 = _CGROUPS / "blkio"


@dataclass(frozen=True, slots=True)
class SlowDisk:
    device: Path
    group: Path

    def command(self, *arguments: str) -> list[str]:
        """The arguments as a command line for whose processes the disk is slow."""
        return ["sh", "-c", f'echo $$ >{self.group}/cgroup.procs && exec "$@"', "sh", *arguments]


@contextlib.contextmanager
def slow_disk(backing: Path, size_bytes: int, bytes_s: int) -> Iterator[SlowDisk]:
    """A blank block device over the file `backing`, which is made."""
    with backing.open("xb") as file:
        file.truncate(size_bytes)
    device = Path(run(["losetup", "--find", "--show", "--direct-io=on", backing]).strip())
    try:
        with _group(device, bytes_s) as group:
            yield SlowDisk(device, group)
    finally:
        run(["losetup", "--detach", device])


@contextlib.contextmanager
def _group(device: Path, bytes_s: int) -> Iterator[Path]:
    rdev = device.stat().st_rdev
    number = f"{os.major(rdev)}:{os.minor(rdev)}"
    if _V1.is_dir():
        group = _V1 / f"roomcast-{os.getpid()}-{os.minor(rdev)}"
        limits = {f"blkio.throttle.{way}_bps_device": f"{number} {bytes_s}" for way in ("read", "write")}
    else:
        (_CGROUPS / "cgroup.subtree_control").write_text("+io")
        group = _CGROUPS / f"roomcast-{os.getpid()}-{os.minor(rdev)}"
        limits = {"io.max": f"{number} rbps={bytes_s} wbps={bytes_s}"}
    group.mkdir()
    try:
        for name, limit in limits.items():
            (group / name).write_text(limit)
        yield group
    finally:
        for process in (group / "cgroup.procs").read_text().split():  # what still runs there
            (group.parent / "cgroup.procs").write_text(process)
        group.rmdir()
