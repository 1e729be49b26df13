"""How the chunks of a cast are cut into blocks and symbols. Pure.

Chunks are byte strings of known lengths. A chunk is cut into symbols of one length (the last one padded with zeros)
and its symbols evenly into the fewest source blocks of at most MAX_BLOCK_SYMBOLS. Symbols, blocks and chunks are each
numbered through the whole session, in order; sender and receiver derive the same numbers from the same lengths.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imager.multicast.erasure import MAX_BLOCK_SYMBOLS
from imager.wire.session import PACKET_BYTES, symbol_bytes

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

MAX_SYMBOLS = (1 << 32) - 1
"""What the 32-bit symbol number of a packet can name, without the last, which is the beacons': 6 TB."""


class CastLayout:
    """The numbers of chunks, blocks and symbols of one session. Raises ValueError for an empty chunk or too
    many symbols.
    """

    __slots__ = (
        "block_chunk",
        "block_count",
        "block_first_symbol",
        "block_symbols",
        "chunk_count",
        "chunk_first_block",
        "chunk_first_symbol",
        "max_chunk_symbols",
        "packet_bytes",
        "stored_lengths",
        "symbol_bytes",
        "symbol_count",
    )

    def __init__(self, stored_lengths: Sequence[int], packet_bytes: int = PACKET_BYTES) -> None:
        self.packet_bytes = packet_bytes
        self.symbol_bytes = symbol_bytes(packet_bytes)
        lengths = np.asarray(stored_lengths, np.int64).reshape(-1)
        if len(lengths) and int(lengths.min()) < 1:
            raise ValueError("a chunk of no bytes cannot be sent")
        symbols = -(-lengths // self.symbol_bytes)
        blocks = -(-symbols // MAX_BLOCK_SYMBOLS)
        self.stored_lengths = lengths
        self.chunk_count = len(lengths)
        self.chunk_first_symbol = _starts(symbols)
        """Shape (chunk_count + 1,): the last entry is symbol_count."""
        self.chunk_first_block = _starts(blocks)
        """Shape (chunk_count + 1,): the last entry is block_count."""
        self.symbol_count = int(self.chunk_first_symbol[-1])
        self.block_count = int(self.chunk_first_block[-1])
        if self.symbol_count > MAX_SYMBOLS:
            raise ValueError(f"{self.symbol_count} symbols are more than one session can number")
        self.max_chunk_symbols = int(symbols.max()) if len(symbols) else 0
        self.block_chunk = np.repeat(np.arange(self.chunk_count), blocks)
        """Shape (block_count,)."""
        place = np.arange(self.block_count) - self.chunk_first_block[self.block_chunk]
        share, rest = np.divmod(symbols, np.maximum(blocks, 1))
        first = self.chunk_first_symbol[self.block_chunk] + place * share[self.block_chunk]
        first += np.minimum(place, rest[self.block_chunk])
        self.block_first_symbol = np.append(first, self.symbol_count)
        """Shape (block_count + 1,)."""
        self.block_symbols = np.diff(self.block_first_symbol)
        """Shape (block_count,): k of each block."""

    def block_of(self, symbol: int) -> int:
        """The block that holds a symbol in 0..symbol_count-1."""
        return int(np.searchsorted(self.block_first_symbol, symbol, "right")) - 1

    def chunk_of(self, symbol: int) -> int:
        """The chunk that holds a symbol in 0..symbol_count-1."""
        return int(np.searchsorted(self.chunk_first_symbol, symbol, "right")) - 1

    def chunk_symbols(self, chunk: int) -> int:
        return int(self.chunk_first_symbol[chunk + 1] - self.chunk_first_symbol[chunk])


def _starts(counts: IntArray) -> IntArray:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))


def unpack_wanted(bitmap: bytes | None, chunk_count: int) -> BoolArray:
    """Which chunks a bitmap names: bit i, most significant first; None names all. ValueError when its size is wrong."""
    if bitmap is None:
        return np.ones(chunk_count, np.bool_)
    if len(bitmap) != (chunk_count + 7) // 8:
        raise ValueError(f"a bitmap of {len(bitmap)} bytes does not fit {chunk_count} chunks")
    return np.unpackbits(np.frombuffer(bitmap, np.uint8), count=chunk_count).astype(np.bool_)
