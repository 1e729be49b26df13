"""The network of a simulation: ports with a buffer of finite bytes, and what is lost between them. Pure.

All times are seconds of the simulated clock. A burst is described by when its first packet comes, the time from one
packet to the next, and which of its packets are still there.
"""

import random
from dataclasses import dataclass

import numpy as np

from imager.multicast.layout import BoolArray
from imager.multicast.pace import FRAME_BYTES


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


class Queue:
    """What waits at a Narrow."""

    def __init__(self, narrow: Narrow) -> None:
        self._narrow = narrow
        self._room = max(1, narrow.buffer_bytes // FRAME_BYTES)
        self._free_at = 0.0
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
        free_at = max(self._free_at, first)
        leaves = free_at + service
        count = len(alive)
        if (free_at - first + count * max(service - gap, 0.0)) / service <= self._room:
            passed = int(np.count_nonzero(alive))
            self._free_at = max(free_at + passed * service, first + (count - 1) * gap + service)
            return leaves, self._free_at
        for at in np.flatnonzero(alive).tolist():
            arrives = first + at * gap
            free_at = max(free_at, arrives)
            if free_at - arrives > (self._room - 0.5) * service:
                alive[at] = False
                self.dropped += 1
            else:
                free_at += service
        self._free_at = free_at
        return leaves, free_at


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
