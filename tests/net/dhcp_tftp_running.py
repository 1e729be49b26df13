"""Start `dhcp_tftp_program.py` on a host of a test network, and read what it tells."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from netns import INTERFACE, Host

PROGRAM = Path(__file__).with_name("dhcp_tftp_program.py")


class Running:
    """The program, and everything it told so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._log: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self._lines.put(json.loads(line))
            else:
                self._log.append(line)
        self._lines.put(None)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 20) -> dict[str, Any]:
        """The next thing told that fits; AssertionError with all that was told when it does not come."""
        while True:
            try:
                told = self._lines.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"not told within {seconds} s; told: {self.told}\n{''.join(self._log)}") from None
            assert told is not None, f"the program ended; told: {self.told}\n{''.join(self._log)}"
            self.told.append(told)
            if wanted(told):
                return told

    def counters(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.wait_for(lambda told: "junk" in told)


@contextlib.contextmanager
def running(host: Host, *arguments: str, interface: str = INTERFACE) -> Iterator[Running]:
    """The program, ready; it is ended at the end of the block."""
    process = subprocess.Popen(
        host.command(sys.executable, str(PROGRAM), interface, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        program = Running(process)
        program.wait_for(lambda told: "ready" in told)
        yield program
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def failure(host: Host, *arguments: str, interface: str = INTERFACE, wrapper: tuple[str, ...] = ()) -> str:
    """The line with which the program refuses to start."""
    command = host.command(*wrapper, sys.executable, str(PROGRAM), interface, *arguments)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    return str(line["error"])
