"""The payloads of a burst: source symbols as they are, repair symbols computed; sealed into their packets.

Pure but for the reader that it is given.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from imager.multicast.erasure import ErasureCode
from imager.multicast.layout import CastLayout
from imager.multicast.pace import longest_burst
from imager.multicast.repair import RepairRun
from imager.multicast.sender import Burst
from imager.wire.seal import Payloads

ReadChunk = Callable[[int, memoryview], None]
"""Gives the bytes of a chunk in memory of its length."""

_CACHED_BYTES = 16 << 20
"""Chunks kept for the repair that is asked for soon after they were sent."""


class PayloadFiller:
    """Fills bursts from chunks, of which it keeps those used last."""

    def __init__(self, layout: CastLayout, read: ReadChunk, code: ErasureCode) -> None:
        self._layout = layout
        self._read = read
        self._code = code
        longest = max(1, layout.max_chunk_symbols) * layout.symbol_bytes
        self._capacity = max(4, _CACHED_BYTES // longest)
        self._chunks: OrderedDict[int, Payloads] = OrderedDict()
        self._repair = _payloads(longest_burst(layout.packet_bytes), layout)

    def fill(self, burst: Burst) -> None:
        """Seal the payloads of `burst.runs` behind their headers. Raises what the reader raises."""
        layout = self._layout
        at = 0
        for run in burst.runs:
            if isinstance(run, RepairRun):
                chunk = int(layout.block_chunk[run.block])
                start = int(layout.block_first_symbol[run.block] - layout.chunk_first_symbol[chunk])
                block = self._symbols(chunk).array[start : start + int(layout.block_symbols[run.block])]
                self._code.encode(block, run.first_row, self._repair.array[: run.count])
                burst.sealer.seal(at, self._repair, 0, run.count)
            else:
                chunk = layout.chunk_of(run.first)
                start = run.first - int(layout.chunk_first_symbol[chunk])
                burst.sealer.seal(at, self._symbols(chunk), start, run.count)
            at += run.count

    def _symbols(self, chunk: int) -> Payloads:
        """The symbols of the chunk, the last one padded with zeros."""
        symbols = self._chunks.get(chunk)
        if symbols is not None:
            self._chunks.move_to_end(chunk)
            return symbols
        layout = self._layout
        if len(self._chunks) < self._capacity:
            symbols = _payloads(layout.max_chunk_symbols, layout)
        else:
            _, symbols = self._chunks.popitem(last=False)
        length = int(layout.stored_lengths[chunk])
        data = symbols.array.reshape(-1)
        self._read(chunk, data.data[:length])
        data[length : layout.chunk_symbols(chunk) * layout.symbol_bytes] = 0
        self._chunks[chunk] = symbols
        return symbols


def _payloads(count: int, layout: CastLayout) -> Payloads:
    return Payloads(np.zeros((count, layout.symbol_bytes), np.uint8))
