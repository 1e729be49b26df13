"""Which sequence numbers a receiver has taken: each is taken once, whoever sends it again. Pure."""

import numpy as np

from imager.multicast.layout import BoolArray, IntArray


class SequenceWindow:
    """Remembers the last SIZE numbers up to the highest taken; what is older counts as taken."""

    SIZE = 1 << 16

    def __init__(self) -> None:
        self._taken = np.zeros(self.SIZE, np.bool_)
        self._first = 0
        self.highest = -1

    def start(self, first: int) -> None:
        """What is below `first` is of the time before: it counts as taken."""
        self._first = first
        self.highest = first - 1

    def fresh(self, sequences: IntArray) -> BoolArray | None:
        """Which of these were not taken yet, shape (n,); None when all of them, each there once."""
        if int(sequences[0]) > self.highest and bool((sequences[1:] > sequences[:-1]).all()):
            return None
        oldest = max(self._first, self.highest - self.SIZE + 1)
        taken = self._taken[sequences & (self.SIZE - 1)] & (sequences <= self.highest)
        fresh: BoolArray = ~taken & (sequences >= oldest)
        return fresh

    def take(self, sequences: IntArray) -> None:
        """These were proven; they are fresh."""
        top = int(sequences.max())
        if top > self.highest:
            self._forget(self.highest + 1, min(top + 1, self.highest + 1 + self.SIZE))
            self.highest = top
        self._taken[sequences[sequences > top - self.SIZE] & (self.SIZE - 1)] = True

    def _forget(self, first: int, end: int) -> None:
        """Places that numbers first..end-1 take over."""
        start, count = first & (self.SIZE - 1), end - first
        self._taken[start : start + count] = False
        self._taken[: max(0, start + count - self.SIZE)] = False
