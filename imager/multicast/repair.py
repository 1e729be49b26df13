"""What receivers asked for, merged: which repair and source symbols are to be sent. Pure.

A NACK says what a block lacks, how many repair rows its receiver has seen, and the last sequence number it has handled.
By the last the sender knows which of its answers were still under way, so a request is answered once however often and
by however many receivers it is made: the queue holds the maximum over receivers, not the sum.
"""

import math
from dataclasses import dataclass

import numpy as np

from imager.multicast.erasure import REPAIR_ROWS
from imager.multicast.layout import CastLayout
from imager.wire.packets import RecordArray

WHOLE_LACKING = 40
"""A block that lacks more symbols than this is sent again: repair symbols of that many losses cost more to decode than
they save, and a joiner lacks everything."""


_GOLDEN = 0.6180339887
"""Share of a block that each turn begins after the turn before: all beginnings lie far apart."""
_RECKONED = 16
"""Blocks that tell what blocks need."""


@dataclass(frozen=True, slots=True)
class SourceRun:
    """Consecutive source symbols."""

    first: int
    """Number of the symbol in the session."""
    count: int


@dataclass(frozen=True, slots=True)
class RepairRun:
    """Consecutive repair rows of one block."""

    block: int
    first_row: int
    count: int


Run = SourceRun | RepairRun


class RepairQueue:
    """Repair symbols and whole blocks that wait to be sent, first asked first."""

    def __init__(self, layout: CastLayout) -> None:
        self._layout = layout
        count = layout.block_count
        self._target = np.zeros(count, np.int64)
        self._sent = np.zeros(count, np.int64)
        self._repaired_at = np.full(count, -1, np.int64)
        self._resent_at = np.full(count, -1, np.int64)
        self._rows: dict[int, None] = {}
        self._whole: dict[int, int] = {}  # block -> symbols of it that were sent in this turn
        self._turns: dict[int, int] = {}  # block -> how often it was sent again
        self._steady = 0
        self._typical = layout.symbol_count / max(1, layout.block_count)
        self.row_count = 0
        """Repair symbols that wait."""
        self.oldest: float | None = None
        """When the first of them was asked for."""

    @property
    def whole_count(self) -> int:
        """Blocks that wait to be sent again."""
        return len(self._whole)

    def ask(self, records: RecordArray, heard: int, frontier: int, now: float) -> int:
        """Take a NACK's records; `heard`: its sequence number, extended. Returns how many records name nonsense.

        Blocks at or above `frontier` were not sent yet and are left alone: their time comes.
        """
        blocks = records["block"].astype(np.int64)
        lacking = records["lacking"].astype(np.int64)
        next_row = records["next_row"].astype(np.int64)
        known = blocks < self._layout.block_count
        sizes = self._layout.block_symbols[np.where(known, blocks, 0)] if self._layout.block_count else lacking * 0
        valid = known & (lacking >= 1) & (lacking <= sizes) & (next_row <= REPAIR_ROWS)
        use = valid & (blocks < frontier)
        blocks, lacking, next_row, sizes = blocks[use], lacking[use], next_row[use], sizes[use]
        under_way = heard < self._resent_at[blocks]
        blocks, lacking, next_row, sizes = (array[~under_way] for array in (blocks, lacking, next_row, sizes))
        seen_all = heard >= self._repaired_at[blocks]
        wanted = np.where(seen_all, self._sent[blocks], next_row) + lacking
        whole = (lacking > WHOLE_LACKING) | (lacking >= sizes) | (wanted > REPAIR_ROWS)
        for block in blocks[whole].tolist():
            self._whole.setdefault(block, 0)
        more = ~whole & (wanted > self._target[blocks])
        for block, want in zip(blocks[more].tolist(), wanted[more].tolist(), strict=True):
            want = max(want, int(self._target[block]))  # the block may stand in the NACK twice
            self.row_count += want - int(self._target[block])
            self._target[block] = want
            self._rows[block] = None
        if self.row_count and self.oldest is None:
            self.oldest = now
        return int(len(valid) - np.count_nonzero(valid))

    @property
    def steady_share(self) -> float:
        """Repair symbols for each source symbol that nearly every block of late needed: they may leave unasked."""
        return max(0.0, (self._steady - 0.5) / self._typical)  # rounded up for each block

    def reckon(self, first: int, end: int) -> None:
        """Take what was asked for of blocks `first` to before `end`, which all receivers have had time to ask about."""
        wanted = self._target[first:end]
        if len(wanted) < _RECKONED:
            return
        enough = np.count_nonzero(wanted <= self._steady) / len(wanted)
        if enough < 0.05:
            self._steady = max(self._steady + 1, int(np.percentile(wanted, 10)))
        elif enough > 0.2 and self._steady:
            self._steady -= 1

    def volunteer(self, chunk: int, share: float) -> None:
        """Repair symbols of a chunk that nobody asked for yet: so many for each of its source symbols."""
        for block in range(*self._layout.chunk_first_block[chunk : chunk + 2].tolist()):
            want = min(REPAIR_ROWS, math.ceil(share * int(self._layout.block_symbols[block])))
            if want > self._target[block]:
                self.row_count += want - int(self._target[block])
                self._target[block] = want
                self._rows[block] = None

    def take_rows(self, room: int, sequence: int) -> list[Run]:
        """Up to `room` repair symbols; the first of them will carry `sequence`."""
        runs: list[Run] = []
        while room and self._rows:
            block = next(iter(self._rows))
            first = int(self._sent[block])
            count = min(int(self._target[block]) - first, room)
            runs.append(RepairRun(block, first, count))
            room -= count
            sequence += count
            self.row_count -= count
            self._sent[block] = first + count
            self._repaired_at[block] = sequence - 1
            if first + count == self._target[block]:
                del self._rows[block]
        if not self._rows:
            self.oldest = None
        return runs

    def take_whole(self, room: int, sequence: int) -> list[Run]:
        """Up to `room` source symbols of blocks to send again; the first of them will carry `sequence`.

        Each turn of a block begins with another symbol: a full buffer on the way passes the first of a row of packets.
        """
        runs: list[Run] = []
        while room and self._whole:
            block, done = next(iter(self._whole.items()))
            size = int(self._layout.block_symbols[block])
            at = (int(self._turns.get(block, 0) * _GOLDEN * size) + done) % size
            count = min(size - done, size - at, room)
            runs.append(SourceRun(int(self._layout.block_first_symbol[block]) + at, count))
            room -= count
            sequence += count
            self._resent_at[block] = sequence - 1
            if done + count == size:
                del self._whole[block]
                self._turns[block] = self._turns.get(block, 0) + 1
            else:
                self._whole[block] = done + count
        return runs
