"""The most memory that a program and its children held at any time, with what the kernel keeps for their sockets."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from imager.programs import run

_EVERY_S = 0.1


class MemoryWatch:
    """A context manager: watches while its block runs."""

    def __init__(self, process: int, inside: Sequence[str]) -> None:
        """`inside`: words before a command that make it run in the network namespace of the process."""
        self._process = process
        self._inside = inside
        self._processes_bytes = 0
        self._sockets_bytes = 0
        self.samples = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def most_bytes(self) -> int:
        return self._processes_bytes + self._sockets_bytes

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_S):
            held = sum(map(_held_bytes, [self._process, *children(self._process)]))
            self._processes_bytes = max(self._processes_bytes, held)
            said = run([*self._inside, "ss", "-uanm"])
            self._sockets_bytes = max(self._sockets_bytes, sum(map(int, re.findall(r"skmem:\(r(\d+)", said))))
            self.samples += 1


def children(process: int) -> list[int]:
    """Of all of its threads; none when it has ended."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _held_bytes(process: int) -> int:
    """Its share of what it holds: what two processes share counts for each by half."""
    try:
        found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)
    except (OSError, ProcessLookupError):
        return 0  # it has ended
    return int(found[1]) * 1024 if found else 0
