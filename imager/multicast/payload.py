"""The payloads of a burst: source symbols as they are, repair symbols computed; sealed into their packets.

Pure but for the reader that it is given.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from imager.multicast.erasure import ErasureCode
from imager.multicast.layout import CastLayout
from imager.multicast.repair import RepairRun
from imager.multicast.sender import Burst
from imager.wire.seal import ByteArray

ReadChunk = Callable[[int], bytes | memoryview]

_CACHED_BYTES = 32 << 20
"""Chunks kept for the repair that is asked for soon after they were sent."""


class PayloadFiller:
    """Fills bursts from chunks, of which it keeps those used last."""

    def __init__(self, layout: CastLayout, read: ReadChunk, code: ErasureCode) -> None:
        self._layout = layout
        self._read = read
        self._code = code
        longest = max(1, layout.max_chunk_symbols) * layout.symbol_bytes
        self._capacity = max(4, _CACHED_BYTES // longest)
        self._chunks: OrderedDict[int, ByteArray] = OrderedDict()

    def fill(self, burst: Burst) -> None:
        """Seal the payloads of `burst.runs` behind their headers. Raises what the reader raises, and ValueError when
        a chunk has not the length that was said.
        """
        layout = self._layout
        at = 0
        for run in burst.runs:
            if isinstance(run, RepairRun):
                chunk = int(layout.block_chunk[run.block])
                start = int(layout.block_first_symbol[run.block] - layout.chunk_first_symbol[chunk])
                block = self._symbols(chunk)[start : start + int(layout.block_symbols[run.block])]
                payload = np.empty((run.count, layout.symbol_bytes), np.uint8)
                self._code.encode(block, run.first_row, payload)
            else:
                chunk = layout.chunk_of(run.first)
                start = run.first - int(layout.chunk_first_symbol[chunk])
                payload = self._symbols(chunk)[start : start + run.count]
            burst.sealer.seal(at, payload)
            at += run.count

    def _symbols(self, chunk: int) -> ByteArray:
        """The chunk as an array (symbols, symbol bytes), the last one padded with zeros."""
        symbols = self._chunks.get(chunk)
        if symbols is not None:
            self._chunks.move_to_end(chunk)
            return symbols
        data = np.frombuffer(self._read(chunk), np.uint8)
        length = int(self._layout.stored_lengths[chunk])
        if len(data) != length:
            raise ValueError(f"chunk {chunk} has {len(data)} bytes, not the {length} that the session was told")
        padded = np.zeros(self._layout.chunk_symbols(chunk) * self._layout.symbol_bytes, np.uint8)
        padded[:length] = data
        symbols = padded.reshape(-1, self._layout.symbol_bytes)
        self._chunks[chunk] = symbols
        while len(self._chunks) > self._capacity:
            self._chunks.popitem(last=False)
        return symbols
