"""`vm-lab/bench cast` with a machine that is much slower than the others, or away: what that costs the others."""

import os
import signal
import time
from collections.abc import Iterator

from classroom.bench import failure
from classroom.cast_peers import TOOLS, cast, file_in_memory, limited, of_file
from classroom.cast_room import CastRoom
from classroom.errors import LabError
from classroom.figures import Failure, Figure
from classroom.run import Run
from imager.programs import run

FILE_BYTES = 128 << 20
RATE = "200m"
"""Of the cast: a room of one machine's cores takes it with ease, so that the others' time is the line's."""
TENTH = "20mbit"
BUFFER_BYTES = 64 << 10
STOPPED_S = 10.0
STOP_AT_S = 3.0
MOST = 1.05
"""The others' time, of their time alone."""


def bench_slow(lab: Run) -> Iterator[Figure | Failure]:
    """Seven receivers alone, beside one at a tenth of the rate, and beside one that is stopped for ten seconds."""
    source = file_in_memory(lab, FILE_BYTES)
    tool = limited(TOOLS["roomcast"], RATE)
    with CastRoom(lab, "seven", 7) as room:
        alone_s = cast(lab, room, tool, source).seconds
    with CastRoom(lab, "eight", 8) as room:
        name = f"cast beside 1 of 8 at a tenth{of_file(FILE_BYTES)}"
        room.shape(room.ports[-1], TENTH, BUFFER_BYTES)
        try:
            yield _others(name, cast(lab, room, tool, source).seconds_each, alone_s)
        except LabError as error:
            yield failure(name, error)
    with CastRoom(lab, "stopped", 8) as room:
        name = f"cast beside 1 of 8 stopped {STOPPED_S:.0f} s{of_file(FILE_BYTES)}"
        stopping = _Stopping(room.receivers[-1])
        yield _others(name, cast(lab, room, tool, source, stopping).seconds_each, alone_s)


def _others(name: str, seconds_each: tuple[float, ...], alone_s: float) -> Figure:
    told = f"their {alone_s:.1f} s alone; the slow one took {seconds_each[-1]:.1f} s"
    return Figure(name, max(seconds_each[:-1]) / alone_s, " x", MOST, is_least=False, peer=told, digits=3)


class _Stopping:
    """Stops all programs of a namespace some seconds after it was first called, and lets them go on."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._began = time.monotonic()
        self._called = False
        self._signals = [(STOP_AT_S, signal.SIGSTOP), (STOP_AT_S + STOPPED_S, signal.SIGCONT)]

    def __call__(self) -> None:
        if not self._called:
            self._called, self._began = True, time.monotonic()
        if self._signals and time.monotonic() - self._began >= self._signals[0][0]:
            _, number = self._signals.pop(0)
            for process in run(["ip", "netns", "pids", self._namespace]).split():
                os.kill(int(process), number)
