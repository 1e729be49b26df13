"""Processes of the lab that end when the lab ends, however it ends.

A background process is killed by the kernel when this program dies (PR_SET_PDEATHSIG). A build runs in a PID and mount
namespace of its own, so that killing its first process takes every descendant and every mount with it.
"""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from classroom.errors import LabError

PACKAGES = Path(__file__).resolve().parents[1]
"""Directory that this package is imported from."""
LOG_LINES = 25
"""How many last lines of a log a person gets to see."""
INTERRUPT_TIMEOUT_S = 5.0


def last_lines(log: Path, count: int = LOG_LINES) -> str:
    """The last `count` lines of a log, without the escape sequences of a terminal; empty when there is no such file."""
    try:
        data = log.read_bytes()[-65536:]
    except OSError:
        return ""
    return "\n".join(data.decode(errors="replace").replace("\r", "").splitlines()[-count:])


def run_contained(command: Sequence[str | Path], *, log: Path, temporary: Path) -> None:
    """Run a build to its end, its output in `log`, its temporary files below `temporary`.

    Needs root. Interrupted, no process and no mount of it stays; files may, below `temporary`. Raises LabError when it
    fails.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--mount-proc", "--fork"]
    words += ["--kill-child=KILL", "--", *map(str, command)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(PACKAGES)},
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            _end_session(process)
            raise
    if status:
        raise LabError(f"`{shlex.join(map(str, command))}` ended with {status}; see {log}", last_lines(log))


def run_program(command: Sequence[str | Path]) -> str:
    """Run a program to its end and return what it printed. Interrupted, it gets a few seconds to clean up after itself.

    Raises LabError when it fails.
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, complaints = process.communicate()
    except BaseException:
        _end_session(process)
        raise
    if process.returncode:
        raise LabError(f"`{shlex.join(map(str, command))}` ended with {process.returncode}", complaints.strip())
    return said.strip()


def _end_session(process: subprocess.Popen[Any]) -> None:
    """Let it clean up after itself for a few seconds; then kill it, and with a build its PID namespace."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(INTERRUPT_TIMEOUT_S)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        process.kill()
        process.wait()


def most_memory_bytes(pid: int) -> int:
    """The most that a running process and its descendants, those that run now, held so far, together (RSS)."""
    total, waiting = 0, [pid]
    while waiting:
        place = Path(f"/proc/{waiting.pop()}")
        if match := re.search(r"VmHWM:\s+(\d+) kB", (place / "status").read_text()):
            total += int(match[1]) * 1024
        for task in (place / "task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return total


def descendants(pid: int, word: str) -> list[int]:
    """Those that run now and have this word on their command line."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
            waiting += (children := list(map(int, (task / "children").read_text().split())))
            found += [child for child in children if word.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


class BackgroundProcess:
    """A program that runs until it is stopped; a context manager."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`namespace`: the network namespace to run in, by its name. Output is appended to `log`."""
        self.name = name
        self.log = log
        enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        self._command = ["setpriv", "--pdeathsig", "KILL", *enter, *map(str, command)]
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, in a session of its own, so that the terminal's Ctrl-C does not reach it."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )

    def kill(self) -> None:
        """End its whole session at once, as a power cut would; `start` starts it again."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        """Raise LabError when it has ended."""
        if self._process is None or (status := self._process.poll()) is None:
            return
        raise LabError(f"{self.name} ended with {status}; see {self.log}", last_lines(self.log))

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask it to end, and end its whole session by force after `timeout_s`."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
