"""What holds a receiver up: where the time of its workers goes. Pure: no I/O, the clocks are handed in.

A receiver whose memory is full tells its sender why, for a person to read: the disk, or the processor. It is measured,
not guessed: every worker says which stage it enters, and what a stage took of the processor counts for the processor.
"""

from enum import IntEnum

from imager.wire.session import Holdup


class Stage(IntEnum):
    """What a worker does."""

    WAITING = 0
    """For a chunk."""
    COMPUTING = 1
    STORING = 2
    """Writing, flushing, reading back."""


class Effort:
    """The time of some workers, by stage."""

    def __init__(self, workers: int, now: float) -> None:
        self._stages = [Stage.WAITING] * workers
        self._since = [now] * workers
        self._cpu = [0.0] * workers
        self._spent = [0.0] * len(Stage)

    def enter(self, worker: int, stage: Stage, now: float, cpu_s: float) -> None:
        """The worker goes on to `stage`. `cpu_s`: what its thread has used of the processor so far."""
        self._note(worker, now)
        if self._stages[worker] is Stage.STORING:
            # what storing computed (copying, a disk in memory) was no waiting for the disk
            used = max(0.0, cpu_s - self._cpu[worker])
            self._spent[Stage.STORING] -= used
            self._spent[Stage.COMPUTING] += used
        self._stages[worker] = stage
        self._cpu[worker] = cpu_s

    def holdup(self, now: float) -> Holdup:
        """What took most of the time since the last call; NONE when the workers mostly waited for chunks."""
        for worker in range(len(self._stages)):
            self._note(worker, now)
        waiting, computing, storing = self._spent
        self._spent = [0.0] * len(Stage)
        if waiting >= computing + storing:
            return Holdup.NONE
        return Holdup.DISK if storing > computing else Holdup.PROCESSOR

    def _note(self, worker: int, now: float) -> None:
        self._spent[self._stages[worker]] += now - self._since[worker]
        self._since[worker] = now
