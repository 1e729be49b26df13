"""How far a task is: steps, bytes, rate, time left. No I/O; the clock is handed in.

Written by the threads that work, read by the thread that reports; every method holds the lock for a moment only.
"""

import threading
from collections import deque
from collections.abc import Callable

from imager.wire.messages import Progress

RATE_WINDOW_S = 8.0
"""The rate is the mean of this time: long enough to be steady, short enough to show a stall."""


class Meter:
    """Counts one task. `begin` ends the step before."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._step = ""
        self._started = clock()
        self._done = self._total = 0
        self._chunks_done = self._chunks_total = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._phases: dict[str, float] = {}
        self._cast = 0
        self._note = ""

    def begin(self, step: str, total_bytes: int = 0, chunks_total: int = 0) -> None:
        """Start `step`; a step that is begun twice counts on."""
        with self._lock:
            self._end_step()
            self._step = step
            self._done, self._total = 0, total_bytes
            self._chunks_done, self._chunks_total = 0, chunks_total
            self._samples = deque([(self._started, 0)])

    def advance(self, count: int, chunks: int = 0) -> None:
        """`count` more bytes of this step are done."""
        with self._lock:
            self._done += count
            self._chunks_done += chunks

    def listen(self, cast: int) -> None:
        """The number of the cast that is listened to; 0: none."""
        with self._lock:
            self._cast = cast

    def note(self, text: str) -> None:
        """What is unusual now; empty: nothing."""
        with self._lock:
            self._note = text

    def set_done(self, done_bytes: int, total_bytes: int) -> None:
        """For steps that count for themselves."""
        with self._lock:
            self._done, self._total = done_bytes, total_bytes

    def end(self) -> dict[str, float]:
        """End the last step; seconds of each step, in order."""
        with self._lock:
            self._end_step()
            self._step = ""
            return {step: round(seconds, 2) for step, seconds in self._phases.items()}

    def snapshot(self) -> Progress:
        """Where the task is now."""
        with self._lock:
            now = self._clock()
            self._samples.append((now, self._done))
            while len(self._samples) > 2 and now - self._samples[1][0] > RATE_WINDOW_S:
                self._samples.popleft()
            first_at, first_done = self._samples[0]
            rate = (self._done - first_done) / (now - first_at) if now > first_at else 0.0
            return Progress(
                step=self._step,
                done_bytes=self._done,
                total_bytes=self._total,
                rate_bytes_s=max(0.0, round(rate, 1)),
                chunks_done=self._chunks_done,
                chunks_total=self._chunks_total,
                cast=self._cast,
                note=self._note,
            )

    def phases(self) -> dict[str, float]:
        """Seconds of every step so far, the running one included."""
        with self._lock:
            so_far = dict(self._phases)
            if self._step:
                so_far[self._step] = so_far.get(self._step, 0.0) + self._clock() - self._started
            return so_far

    def _end_step(self) -> None:
        now = self._clock()
        if self._step:
            self._phases[self._step] = self._phases.get(self._step, 0.0) + now - self._started
        self._started = now


def seconds_left(progress: Progress) -> float | None:
    """None when nobody can tell: no total, or nothing moves."""
    if progress.total_bytes <= 0 or progress.rate_bytes_s <= 0:
        return None
    return max(0, progress.total_bytes - progress.done_bytes) / progress.rate_bytes_s


def share_done(progress: Progress) -> float | None:
    """0 to 1; None for a step that has no bytes to count."""
    if progress.total_bytes <= 0:
        return None
    return min(1.0, progress.done_bytes / progress.total_bytes)
