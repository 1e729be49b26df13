"""How long work takes, and how much of it the box it runs on took: other programs on its processors, a slow disk.

A test that promises milliseconds of a program shares two processors with the flood that it makes, and with strangers.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BEAT_S = 0.01


@dataclass(frozen=True, slots=True)
class Took:
    """One piece of work, in seconds."""

    whole: float
    processor: float
    """Ready to run but kept waiting for a processor: the thread of those that take part that waited longest."""
    disk: float
    """The longest that one byte took to the same disk meanwhile."""

    @property
    def own(self) -> float:
        return self.whole - self.processor - self.disk


class Stalls:
    """Measures work that this thread and these processes do together, with their files in `directory`."""

    def __init__(self, processes: list[int], directory: Path) -> None:
        self._processes = processes
        self._file = os.open(directory / "beat", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._beats: list[tuple[float, float]] = []
        """Begin and end."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._file)

    def measure(self, work: Callable[[], object]) -> Took:
        waits, begin = self._waits(), time.monotonic()
        work()
        end = time.monotonic()
        waited = max(wait - waits.get(thread, 0.0) for thread, wait in self._waits().items())
        beats = [to - since for since, to in self._beats[-1000:] if since <= end and to >= begin]
        return Took(end - begin, waited, max(beats, default=0.0))

    def _waits(self) -> dict[Path, float]:
        """Of each thread the seconds that it waited for a processor (the kernel's documentation of schedstat)."""
        threads = [Path(f"/proc/self/task/{threading.get_native_id()}")]
        for process in self._processes:
            threads += Path(f"/proc/{process}/task").iterdir()
        return {thread: int((thread / "schedstat").read_text().split()[1]) / 1e9 for thread in threads}

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_S):
            begin = time.monotonic()
            os.pwrite(self._file, b"x", 0)
            os.fdatasync(self._file)
            self._beats.append((begin, time.monotonic()))
