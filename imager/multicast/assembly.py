"""Where received symbols go: chunks under assembly in slots of a fixed memory. Pure.

A chunk takes a free slot with its first symbol and keeps it until the shell has released it. Symbols are opened by run,
not one by one, straight into their slot; one that is there already, or has no slot, is opened elsewhere, only to prove
it: what is forged changes nothing. A block that has as many symbols as it is long, source or repair, is whole; a chunk
of whole blocks is handed out. Without a free slot symbols are dropped: they are asked for later.
"""

import numpy as np

from imager.multicast.erasure import REPAIR_ROWS, ErasureCode
from imager.multicast.events import ChunkAssembled
from imager.multicast.layout import BoolArray, CastLayout, IntArray
from imager.wire.seal import ByteArray, Opener
from imager.wire.session import Reject

UNWANTED, LACKING, OPEN, HANDED_OUT, HELD = range(5)
"""States of a chunk: of no interest; wanted, without a slot; in a slot; whole, with the shell; released as good."""


class Assembly:
    """The chunks of one receiver."""

    def __init__(self, layout: CastLayout, wanted: BoolArray, memory: ByteArray, code: ErasureCode) -> None:
        """`memory`: shape (slots, slot bytes), a slot at least the padded longest chunk; the assembly's from now on."""
        self.slots = slots = len(memory)
        self._symbol_bytes = layout.symbol_bytes
        symbols = memory.shape[1] // self._symbol_bytes
        assert slots and symbols >= layout.max_chunk_symbols
        self._layout = layout
        self._code = code
        self._memory = memory[:, : symbols * self._symbol_bytes].reshape(slots, symbols, self._symbol_bytes)
        self._places = [slot.data.cast("B") for slot in self._memory]
        self._seen = np.zeros((slots, symbols), np.bool_)
        self._free = list(range(slots))
        self._slot = [-1] * layout.chunk_count
        self.state = np.where(wanted, LACKING, UNWANTED).astype(np.int8)
        """Shape (chunk_count,)."""
        whole = np.where(wanted[layout.block_chunk], layout.block_symbols, 0)
        self.lacking = whole.astype(np.int32)
        """Source symbols that a block still lacks; shape (block_count,)."""
        self.in_hand = np.zeros(layout.block_count, np.int32)
        """Repair symbols of a block that wait for more."""
        self.next_row = np.zeros(layout.block_count, np.int32)
        """1 + the highest repair row of a block that was seen."""
        self.open_blocks = np.zeros(layout.block_count, np.bool_)
        """Blocks of chunks in a slot."""
        self._repair: dict[int, dict[int, bytearray]] = {}
        self._current = (0, 0, 0)  # chunk, its first symbol, the symbol after it
        self._current_block = (0, 0, 0)  # likewise
        self._assembled: list[ChunkAssembled] = []
        self.held_count = 0
        self.to_hold_count = int(np.count_nonzero(wanted))
        self.dropped = 0
        """Symbols that found no free slot."""
        self.duplicates = 0

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def place_source(self, first: int, opener: Opener, at: int, count: int) -> list[int]:
        """Consecutive source symbols from number `first`, all below symbol_count, in `count` packets of `opener`.

        The first of these is its packet `at`. Returns which packets are forged.
        """
        forged: list[int] = []
        while count:
            chunk, start, end = self._current
            if not start <= first < end:
                chunk = self._layout.chunk_of(first)
                start, end = self._layout.chunk_first_symbol[chunk : chunk + 2].tolist()
                self._current = (chunk, start, end)
            part = min(count, end - first)
            wrong = self._place_in_chunk(chunk, first - start, first, opener, at, part)
            if wrong:
                forged += [at + place for place in wrong]
            at += part
            first += part
            count -= part
        return forged

    def _place_in_chunk(self, chunk: int, start: int, first: int, opener: Opener, at: int, count: int) -> list[int]:
        """Symbols of one chunk, from its symbol `start` on; which of them, 0..count-1, are forged."""
        slot = self._slot_for(chunk)
        if slot < 0:
            forged = opener.open(at, count, None)
            self._pass_over(chunk, count - len(forged))
            return forged
        seen = self._seen[slot, start : start + count]
        size = self._symbol_bytes
        place = self._places[slot][start * size : (start + count) * size]
        if np.count_nonzero(seen):
            return self._place_singly(chunk, slot, first, seen, opener, at, place)
        forged = opener.open(at, count, place)
        if len(forged) < count:
            self._take_slot(chunk, slot)
            seen[:] = True
            if not forged:
                self._count_run(chunk, first, count)
            else:
                seen[forged] = False
                good = first + np.flatnonzero(seen)
                blocks = np.searchsorted(self._layout.block_first_symbol, good, "right") - 1
                for block, new in zip(*(part.tolist() for part in np.unique(blocks, return_counts=True)), strict=True):
                    self._count(chunk, block, new)
        return forged

    def _place_singly(
        self, chunk: int, slot: int, first: int, seen: BoolArray, opener: Opener, at: int, place: memoryview
    ) -> list[int]:
        """As _place_in_chunk, where some of the symbols are there already."""
        size = self._symbol_bytes
        forged: list[int] = []
        for number in range(len(seen)):
            known = bool(seen[number])
            if opener.open(at + number, 1, None if known else place[number * size : (number + 1) * size]):
                forged.append(number)
            elif known:
                self.duplicates += 1
            else:
                self._take_slot(chunk, slot)
                seen[number] = True
                self._count(chunk, self._layout.block_of(first + number), 1)
        return forged

    def _count_run(self, chunk: int, first: int, count: int) -> None:
        """Note `count` new symbols of a chunk from number `first`, block by block."""
        layout = self._layout
        end = first + count
        while first < end:
            block, start, stop = self._current_block
            if not start <= first < stop:
                block = layout.block_of(first)
                start, stop = layout.block_first_symbol[block : block + 2].tolist()
                self._current_block = (block, start, stop)
            part = min(end, stop) - first
            self._count(chunk, block, part)
            first += part

    def _count(self, chunk: int, block: int, count: int) -> None:
        """Note `count` new symbols of a block, all of which are marked as seen."""
        lacking = int(self.lacking[block]) - count
        self.lacking[block] = lacking
        if lacking <= self.in_hand[block]:
            self._complete(chunk, block)

    def place_repair(self, block: int, row: int, opener: Opener, at: int) -> Reject | None:
        """One repair symbol, in packet `at` of `opener`. Why it was not taken, if so."""
        if block >= self._layout.block_count or row >= REPAIR_ROWS:
            return Reject.OUT_OF_RANGE
        payload = bytearray(self._symbol_bytes)
        if opener.open(at, 1, memoryview(payload)):
            return Reject.FORGED
        self.next_row[block] = max(int(self.next_row[block]), row + 1)
        chunk = int(self._layout.block_chunk[block])
        slot = self._slot_for(chunk)
        if slot < 0:
            self._pass_over(chunk, 1)
            return None
        self._take_slot(chunk, slot)
        rows = self._repair.setdefault(block, {})
        if not self.lacking[block] or row in rows:
            self.duplicates += 1
            return None
        rows[row] = payload
        self.in_hand[block] = len(rows)
        if self.lacking[block] <= len(rows):
            self._complete(chunk, block)
        return None

    def _slot_for(self, chunk: int) -> int:
        """The slot of a chunk under assembly, or the one that it would take; -1 when its symbols are of no use now."""
        slot = self._slot[chunk]
        if slot >= 0 and self.state[chunk] == OPEN:
            return slot
        if self.state[chunk] != LACKING or not self._free:
            return -1
        slot = self._free[-1]  # the one freed last: it may still be in the processor's cache
        self._seen[slot] = False
        return slot

    def _take_slot(self, chunk: int, slot: int) -> None:
        """A symbol is in the slot that _slot_for gave: if it was free, it is the chunk's now."""
        if self.state[chunk] != LACKING:
            return
        self._free.pop()
        self._slot[chunk] = slot
        self.state[chunk] = OPEN
        first, end = self._layout.chunk_first_block[chunk : chunk + 2]
        self.open_blocks[first:end] = True

    def _pass_over(self, chunk: int, symbols: int) -> None:
        """Count symbols that are of no use now."""
        if self.state[chunk] == LACKING:
            self.dropped += symbols
        else:
            self.duplicates += symbols

    def _complete(self, chunk: int, block: int) -> None:
        """A block has all it needs: decode what is missing, and hand the chunk out if it was the last."""
        layout = self._layout
        rows = self._repair.pop(block, None)
        lacking = int(self.lacking[block])
        if lacking:
            assert rows is not None
            start = int(layout.block_first_symbol[block] - layout.chunk_first_symbol[chunk])
            end = start + int(layout.block_symbols[block])
            slot = self._slot[chunk]
            missing = np.flatnonzero(~self._seen[slot, start:end])
            used = np.array(sorted(rows)[:lacking])
            repair = np.frombuffer(b"".join(rows[row] for row in used.tolist()), np.uint8)
            self._code.decode(self._memory[slot, start:end], missing, used, repair.reshape(lacking, self._symbol_bytes))
            self._seen[slot, start:end] = True
        self.lacking[block] = 0
        self.in_hand[block] = 0
        self.open_blocks[block] = False
        first, end = layout.chunk_first_block[chunk : chunk + 2].tolist()
        if not self.lacking[first:end].any():
            self.state[chunk] = HANDED_OUT
            self._assembled.append(ChunkAssembled(chunk, self._slot[chunk], int(layout.stored_lengths[chunk])))

    def assembled(self) -> list[ChunkAssembled]:
        """Chunks that became whole since the last call."""
        assembled, self._assembled = self._assembled, []
        return assembled

    def release(self, chunk: int, ok: bool) -> None:
        """The shell has done with a chunk that was handed out; ok False: its bytes were wrong, all of it is lacking."""
        if not 0 <= chunk < self._layout.chunk_count or self.state[chunk] != HANDED_OUT:
            raise ValueError(f"chunk {chunk} is not handed out")
        self._free.append(self._slot[chunk])
        self._slot[chunk] = -1
        if ok:
            self.state[chunk] = HELD
            self.held_count += 1
            return
        self.state[chunk] = LACKING
        blocks = slice(*self._layout.chunk_first_block[chunk : chunk + 2].tolist())
        self.lacking[blocks] = self._layout.block_symbols[blocks]

    def lacking_chunks(self, limit: int) -> IntArray:
        """The first `limit` wanted chunks that have no slot."""
        return np.flatnonzero(self.state == LACKING)[:limit]
