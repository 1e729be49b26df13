"""A chunk's two forms: raw bytes, and stored bytes (one zstd frame). Pure: no I/O.

zstd and BLAKE3 release the GIL for the sizes of a chunk, so threads that seal or open chunks run side by side. A
Compressor or Decompressor belongs to one thread.
"""

import zstandard
from blake3 import blake3

from imager.errors import ChunkError

DEFAULT_LEVEL = 1
"""zstd level: -1 keeps up with a disk on one core; -3 stores 10 % less at 80 % of its rate (FACTS of the project)."""

Bytes = bytes | bytearray | memoryview


def hash_chunk(raw: Bytes) -> bytes:
    """BLAKE3 of raw bytes, 32 bytes."""
    return blake3(raw).digest()


class Compressor:
    """Makes stored bytes. One thread's own."""

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)

    def compress(self, raw: Bytes) -> bytes:
        """One zstd frame that names its content size."""
        return self._zstd.compress(raw)


class Decompressor:
    """Makes raw bytes of stored bytes. One thread's own."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def open(self, stored: Bytes, raw_bytes: int, expected_hash: bytes) -> bytes:
        """The raw bytes, whose length and hash hold. Raises ChunkError and nothing else.

        The frame's own content size is compared before anything is allocated: a forged one cannot exhaust memory.
        """
        try:
            _check_length(stored, raw_bytes)
            raw = self._zstd.decompress(stored)
        except zstandard.ZstdError as error:
            raise ChunkError(f"the chunk does not decompress: {error}") from error
        _check_hash(raw, raw_bytes, expected_hash)
        return raw

    def open_into(self, stored: Bytes, room: memoryview, expected_hash: bytes) -> None:
        """As `open`, into memory of the caller's, as long as the raw bytes; after an error it holds no chunk."""
        filled = 0
        try:
            _check_length(stored, len(room))
            with self._zstd.stream_reader(stored) as reader:
                while filled < len(room) and (more := reader.readinto(room[filled:])):
                    filled += more
        except zstandard.ZstdError as error:
            raise ChunkError(f"the chunk does not decompress: {error}") from error
        _check_hash(room[:filled], len(room), expected_hash)


def _check_length(stored: Bytes, raw_bytes: int) -> None:
    if zstandard.frame_content_size(stored) != raw_bytes:
        raise ChunkError("the chunk's frame is of another length than its manifest says")


def _check_hash(raw: Bytes, raw_bytes: int, expected_hash: bytes) -> None:
    if len(raw) != raw_bytes or hash_chunk(raw) != expected_hash:
        raise ChunkError(f"the chunk's hash is not {expected_hash.hex()[:16]}...: its bytes were changed")
