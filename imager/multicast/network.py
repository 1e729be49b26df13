"""The network of a simulation: ports with a buffer of finite bytes, and what is lost between them. Pure.

All times are seconds of the simulated clock. A burst is described by when its first packet comes, the time from one
packet to the next, and which of its packets are still there.
"""

import bisect
import math
import random
from dataclasses import dataclass

import numpy as np

from imager.multicast.layout import BoolArray
from imager.multicast.pace import FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Pauses:
    """Times in which a machine has no turn of its processor, as emulated and busy ones have."""

    every_s: float
    """From the end of one to the next, on average, by chance."""
    median_s: float = 0.14
    spread: float = 0.5
    """Of the logarithm of their lengths, which is normal."""
    longest_s: float = 0.4


@dataclass(frozen=True, slots=True)
class Narrow:
    """A place that passes packets one after the other and holds what waits in a buffer: a switch's port, or a receiver
    whose processor takes packets out of its socket.
    """

    bps: float
    """Bits of frames a second."""
    buffer_bytes: int
    changes: tuple[tuple[float, float], ...] = ()
    """From a time on (seconds, ascending) another rate holds."""
    pauses: Pauses | None = None
    """In which nothing passes."""


class _Turns:
    """When a Narrow works: a clock that stands still in its pauses."""

    def __init__(self, pauses: Pauses | None, rng: random.Random) -> None:
        self._pauses = pauses
        self._random = rng
        self._paused: list[tuple[float, float, float]] = []
        """Of each pause: its start, its end, and all pauses before it together."""
        self._next_start = rng.expovariate(1 / pauses.every_s) if pauses else math.inf

    def _draw(self, until: float) -> None:
        while self._pauses is not None and self._next_start <= until:
            start, before = self._next_start, 0.0
            if self._paused:
                before = self._paused[-1][2] + self._paused[-1][1] - self._paused[-1][0]
            lasts = self._random.lognormvariate(math.log(self._pauses.median_s), self._pauses.spread)
            self._paused.append((start, start + min(lasts, self._pauses.longest_s), before))
            self._next_start = self._paused[-1][1] + self._random.expovariate(1 / self._pauses.every_s)

    def worked(self, time: float) -> float:
        """Without the pauses up to `time`."""
        self._draw(time)
        at = bisect.bisect_right(self._paused, (time, math.inf, math.inf)) - 1
        if at < 0:
            return time
        start, end, before = self._paused[at]
        return min(time, start) - before if time < end else time - before - (end - start)

    def time(self, worked: float) -> float:
        """When so much is worked."""
        self._draw(worked)
        time = worked
        for start, end, before in self._paused:  # drawn up to `time` only: each pause makes it later
            if start - before >= worked:
                break
            time = worked + before + end - start
            self._draw(time)
        return time


class Queue:
    """What waits at a Narrow."""

    def __init__(self, narrow: Narrow, rng: random.Random) -> None:
        self._narrow = narrow
        self._turns = _Turns(narrow.pauses, rng)
        self._room = max(1, narrow.buffer_bytes // FRAME_BYTES)
        self._free_at = 0.0  # without pauses, as all times within take()
        self.dropped = 0

    def _service_s(self, now: float) -> float:
        bps = self._narrow.bps
        for since, rate in self._narrow.changes:
            if now >= since:
                bps = rate
        return FRAME_BYTES * 8 / bps

    def take(self, first: float, gap: float, alive: BoolArray) -> tuple[float, float]:
        """Pass a burst; those of `alive` that find no room are dead after that. Returns when the first and the last
        packet leave.
        """
        service = self._service_s(first)
        worked = self._turns.worked(first)
        if self._turns.worked(first + gap * len(alive)) == worked:
            gap = 0.0  # they come in a pause
        free_at = max(self._free_at, worked)
        leaves = free_at + service
        count = len(alive)
        if (free_at - worked + count * max(service - gap, 0.0)) / service <= self._room:
            passed = int(np.count_nonzero(alive))
            self._free_at = max(free_at + passed * service, worked + (count - 1) * gap + service)
        else:
            for at in np.flatnonzero(alive).tolist():
                arrives = worked + at * gap
                free_at = max(free_at, arrives)
                if free_at - arrives > (self._room - 0.5) * service:
                    alive[at] = False
                    self.dropped += 1
                else:
                    free_at += service
            self._free_at = free_at
        if self._narrow.pauses is None:
            return leaves, self._free_at
        return self._turns.time(leaves), self._turns.time(self._free_at)


class Outages:
    """Times in which a receiver hears nothing: they come by chance, and each is as long as chance says."""

    def __init__(self, every_s: float, lasts_s: tuple[float, float], until: float, rng: random.Random) -> None:
        """On average one in `every_s` (0: none), lasting between the two of `lasts_s`; none begins after `until`."""
        self._spans: list[tuple[float, float]] = []
        at = rng.expovariate(1 / every_s) if every_s else until
        while at < until:
            end = at + rng.uniform(*lasts_s)
            self._spans.append((at, end))
            at = end + rng.expovariate(1 / every_s)

    def cover(self, time: float) -> bool:
        """Whether one holds; `time` never goes back by more than the network's delays."""
        while self._spans and time > self._spans[0][1] + 1:
            del self._spans[0]
        return any(start <= time < end for start, end in self._spans[:2])
