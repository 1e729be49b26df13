"""A program whose end and CPU time a bench asks for, and which does not outlive the bench that started it."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from classroom.errors import LabError
from classroom.processes import last_lines
from classroom.run import inside

GRACE_S = 5.0
"""What a program gets to end after SIGTERM, before SIGKILL."""
_POLL_S = 0.01


class TimedProcess:
    """Runs in a namespace from now until it ends, or until the stack of contexts that it is given unwinds."""

    def __init__(
        self,
        namespace: str,
        command: Sequence[str],
        log: Path,
        stack: ExitStack,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._command = command
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*inside(namespace), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        self.cpu_s = 0.0
        """Its own and its children's, once it has ended."""
        self.status: int | None = None
        """As of subprocess.Popen.returncode."""
        stack.callback(self.end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Asks the kernel."""
        if self.status is None:
            # Popen's own questions (poll, terminate, send_signal) would take the status, and the CPU time with it.
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self.cpu_s = usage.ru_utime + usage.ru_stime
                self.status = self._process.returncode = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def look(self) -> bool:
        """Whether it has ended. Raises LabError when it has ended badly."""
        if not self.has_ended:
            return False
        if self.status:
            raise LabError(
                f"`{' '.join(self._command)}` ended with {self.status}; see {self.log}", last_lines(self.log)
            )
        return True

    def wait(self, within_s: float) -> None:
        """Until it has ended well. Raises LabError when it has not, or ended badly."""
        deadline = time.monotonic() + within_s
        while not self.look():
            if time.monotonic() > deadline:
                raise LabError(f"`{' '.join(self._command)}` did not end within {within_s:.0f} s", last_lines(self.log))
            time.sleep(_POLL_S)

    def end(self) -> None:
        """Returns when it has ended, of itself or by a signal."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.has_ended:
                return
            os.kill(self.pid, number)  # nobody but us takes its status, so the number is still its own
            deadline = time.monotonic() + GRACE_S
            while not self.has_ended and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        if not self.has_ended:
            raise LabError(f"`{' '.join(self._command)}` does not end")
