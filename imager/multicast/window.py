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

    def begin(self, first: int) -> tuple[int, int]:
        """What is below `first` is of the time before: it counts as taken.

        Returns from which number on it is known what was taken, at least `first`, and how many of these were.
        """
        self._first = first
        self._raise(first - 1)
        start = max(first, self.highest - self.SIZE + 1)
        return start, int(np.count_nonzero(self._taken[np.arange(start, self.highest + 1) & (self.SIZE - 1)]))

    def fresh(self, sequences: IntArray) -> BoolArray | None:
        """Which of these were not taken yet, shape (n,); None when all of them, each there once."""
        if int(sequences[0]) > self.highest and bool((sequences[1:] > sequences[:-1]).all()):
            return None
        oldest = max(self._first, self.highest - self.SIZE + 1)
        taken = self._taken[sequences & (self.SIZE - 1)] & (sequences <= self.highest)
        fresh: BoolArray = ~taken & (sequences >= oldest)
        return fresh

    def take(self, sequences: IntArray) -> None:
        """These were proven; they are fresh, and in ascending order."""
        first, top = int(sequences[0]), int(sequences[-1])
        self._raise(top)
        if top - first < min(len(sequences), self.SIZE):  # none between them is lacking: so it is mostly
            self._mark(first, top + 1, True)
            return
        self._taken[sequences[sequences > top - self.SIZE] & (self.SIZE - 1)] = True

    def _raise(self, highest: int) -> None:
        """Move on to this number, if it is higher: the places of those that the window leaves are taken over."""
        if highest <= self.highest:
            return
        first, end = self.highest + 1, min(highest, self.highest + self.SIZE) + 1
        self.highest = highest
        self._mark(first, end, False)

    def _mark(self, first: int, end: int, taken: bool) -> None:
        """The places of numbers first..end-1, SIZE of them at most."""
        start, count = first & (self.SIZE - 1), end - first
        self._taken[start : start + count] = taken
        if start + count > self.SIZE:
            self._taken[: start + count - self.SIZE] = taken
