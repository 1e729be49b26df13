"""One run of the lab: its name, its directory, and the promise that nothing that bears its name stays behind.

All that a run makes is found by its name again: network namespaces `NAME-...`, every process in them, every mount and
loop device below its directory. So it is removed in one way, whether the run ended, was interrupted at any line, or was
killed and is found by the next run (which sees that nobody holds its lock).
"""

import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from classroom.errors import LabError
from imager.errors import ToolError
from imager.programs import run

CACHE = Path("/var/cache/roomcast-lab")
NETNS = Path("/run/netns")
KILL_TIMEOUT_S = 10.0
KEPT_LOGS = 5
_HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """A context manager: entering removes what dead runs left, leaving removes all of this one."""

    def __init__(self, cache: Path = CACHE) -> None:
        self.cache = cache
        self.name = f"rclab-{os.getpid()}"
        self.directory = cache / "runs" / self.name
        """Files of this run: disks, sockets, data directory; gone at its end."""
        self.logs = cache / "logs" / self.name
        """Stays at the end; of runs that have ended only the last are kept."""
        self._lock: IO[bytes] | None = None

    def namespace(self, role: str) -> str:
        """The name of this run's network namespace for `role`."""
        return f"{self.name}-{role}"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("the lab needs root for network namespaces and disks: run it with sudo")
        runs = self.cache / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        with held_back_signals():
            remove_dead_runs(runs)
            self.directory.mkdir()
            self._lock = (self.directory / "lock").open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            shutil.rmtree(self.logs, ignore_errors=True)
            self.logs.mkdir(parents=True)
            ended = [logs for logs in self.logs.parent.iterdir() if not (runs / logs.name).exists()]
            for old in sorted(ended, key=_age)[KEPT_LOGS:]:
                shutil.rmtree(old, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with held_back_signals():
            remove_run(self.directory)
            if self._lock is not None:
                self._lock.close()


def inside(namespace: str) -> list[str]:
    """Words before a command that make it run in a network namespace."""
    return ["nsenter", f"--net={NETNS / namespace}", "--"]


def _age(path: Path) -> float:
    return -path.stat().st_mtime


@contextmanager
def held_back_signals() -> Iterator[None]:
    """Signals that ask us to end wait until the block is done: a second Ctrl-C must not stop the cleaning up.

    Of the main thread only: it is the one that Python interrupts. Programs that are run meanwhile inherit the mask, so
    that Ctrl-C on a terminal, which reaches them too, does not end them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    # Another thread may take the signal in our place; Python then calls the handler here all the same.
    before = [signal.signal(number, lambda number, _: arrived.append(number)) for number in _HELD_BACK]
    try:
        yield
    finally:
        for number, handler in zip(_HELD_BACK, before, strict=True):
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if arrived:
        signal.raise_signal(arrived[0])


def remove_dead_runs(runs: Path) -> list[str]:
    """Remove what runs left that nobody holds the lock of. Returns their names."""
    removed = []
    for directory in sorted(runs.iterdir()):
        try:
            with (directory / "lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_run(directory)
        except BlockingIOError:
            continue
        removed.append(directory.name)
    return removed


def remove_run(directory: Path) -> None:
    """Remove processes, namespaces, mounts, loop devices and files of the run whose directory this is."""
    for namespace in sorted(path.name for path in NETNS.glob(f"{directory.name}-*")):
        _kill_inhabitants(namespace)
        run(["ip", "netns", "delete", namespace])
    for mount in _mounts_below(directory):
        run(["umount", "--lazy", mount])
    for line in run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]).splitlines():
        device, _, file = line.strip().partition(" ")
        if Path(file.strip()).is_relative_to(directory):
            run(["losetup", "--detach", device])
    shutil.rmtree(directory, ignore_errors=True)


def _kill_inhabitants(namespace: str) -> None:
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            pids = [int(word) for word in run(["ip", "netns", "pids", namespace]).split()]
        except ToolError:
            return  # a namespace whose creation was interrupted: a name without a namespace
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    raise LabError(f"processes in the network namespace {namespace} do not end: {pids}")


def _mounts_below(directory: Path) -> list[str]:
    """Mount points below `directory`, the innermost first."""
    points = [line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((point for point in points if Path(point).is_relative_to(directory)), key=len, reverse=True)
