"""The DATA packets of a file, made ahead in pieces that many transfers share. Pure: reads only through `Content`.

A room that boots asks for the same file at the same block size, so a piece is made once: its packets lie one after the
other as they go on the wire, and a window is a slice of it that one system call sends (UDP_SEGMENT).
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol

from netboot.wire.tftp import DATA_HEADER_BYTES, build_data_header

MAX_PIECE_BYTES = 64_000
"""Less than the largest UDP datagram: a piece can be sent by one call."""
MAX_PIECE_BLOCKS = 64
"""The most datagrams of one call (UDP_MAX_SEGMENTS of older kernels)."""
CACHE_BYTES = 1024 * 1024
"""As far as clients that began together are apart after a while; to make a piece again costs little."""
_ROUND = 65536


class Content(Protocol):
    """The bytes of a file."""

    @property
    def size(self) -> int:
        """Bytes; fixed for the transfer."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, which lie inside the file; OSError or a short answer when they cannot be had."""


class BlockCache:
    """Pieces by file, block size, numbering and place; the longest unused are dropped."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pieces: OrderedDict[Hashable, memoryview] = OrderedDict()
        self.held_bytes = 0

    def get(self, key: Hashable) -> memoryview | None:
        piece = self._pieces.get(key)
        if piece is not None:
            self._pieces.move_to_end(key)
        return piece

    def put(self, key: Hashable, piece: memoryview) -> None:
        self._pieces[key] = piece
        self.held_bytes += len(piece)
        while self.held_bytes > self._max_bytes:
            _, dropped = self._pieces.popitem(last=False)
            self.held_bytes -= len(dropped)


class PreparedBlocks:
    """The blocks of one file, from 1 to `last`, at one block size."""

    def __init__(
        self, content: Content, block_bytes: int, cache: BlockCache | None = None, identity: Hashable = None
    ) -> None:
        """`identity` names content that never changes: whoever gives the same one shares pieces by the cache."""
        self._content = content
        self._cache = cache if identity is not None else None
        self._identity = identity
        self._block_bytes = block_bytes
        self.packet_bytes = DATA_HEADER_BYTES + block_bytes
        fitting = max(1, min(MAX_PIECE_BLOCKS, MAX_PIECE_BYTES // self.packet_bytes))
        self.piece_blocks: int = 1 << (fitting.bit_length() - 1)
        """A power of two, so that the usual windows do not straddle two pieces."""
        self.last = content.size // block_bytes + 1
        """The first block that is not full: it may be empty."""

    def piece(self, block: int, rollover: int) -> tuple[int, memoryview]:
        """The piece with `block`: the number of its first block, and its packets.

        The packets are `packet_bytes` each, but the file's last. OSError when the file cannot be read, or is shorter
        than it was.
        """
        index = (block - 1) // self.piece_blocks
        first = index * self.piece_blocks + 1
        if self._cache is None:
            return first, self._build(first, rollover)
        key = (self._identity, self._block_bytes, rollover, index)
        piece = self._cache.get(key)
        if piece is None:
            piece = self._build(first, rollover)
            self._cache.put(key, piece)
        return first, piece

    def _build(self, first: int, rollover: int) -> memoryview:
        size = self._block_bytes
        last = min(first + self.piece_blocks - 1, self.last)
        start = (first - 1) * size
        length = min(last * size, self._content.size) - start
        data = self._content.read(start, length) if length else b""
        if len(data) != length:
            raise ShrunkError
        payloads = memoryview(data)
        parts: list[bytes | memoryview] = []
        for block in range(first, last + 1):
            at = (block - first) * size
            parts += build_data_header(wire_number(block, rollover)), payloads[at : at + size]
        return memoryview(b"".join(parts))


class ShrunkError(OSError):
    """The file is shorter than when it was opened."""

    def __str__(self) -> str:
        return "the file became shorter while it was sent"


def wire_number(block: int, rollover: int) -> int:
    """What stands in a packet for a block counted from 0 without end: after 65535 comes `rollover`, 0 or 1."""
    if rollover == 0 or block == 0:
        return block % _ROUND
    return (block - 1) % (_ROUND - 1) + 1


def blocks_after(block: int, wire: int, rollover: int) -> int:
    """How many blocks after `block` the next one is that `wire` stands for: 0 for itself; -1 for none."""
    if rollover == 0 or block <= 0:
        return (wire - block) % _ROUND
    return (wire - block) % (_ROUND - 1) if wire else -1
