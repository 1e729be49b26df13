"""What a session sends: bitmaps of chunks that are lacking, and their union. Pure: no I/O.

A bitmap has bit i, most significant first, set when chunk i is lacking; ceil(chunks / 8) bytes, spare bits 0.
"""

from collections.abc import Iterable

import numpy as np

from imager.errors import MessageError


def full_bitmap(count: int) -> bytes:
    """All `count` chunks are lacking."""
    return build_bitmap(range(count), count)


def build_bitmap(lacking: Iterable[int], count: int) -> bytes:
    """The bitmap of the chunks in `lacking`, each in 0..count-1."""
    bits = np.zeros(count, np.uint8)
    bits[np.fromiter(lacking, np.int64)] = 1
    return np.packbits(bits).tobytes()


def parse_bitmap(bitmap: bytes, count: int) -> list[int]:
    """The chunks that are lacking, in order. Raises MessageError when `bitmap` is not one of `count` chunks."""
    if len(bitmap) != -(-count // 8):
        raise MessageError(f"a bitmap of {count} chunks has {-(-count // 8)} bytes, not {len(bitmap)}")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8))
    if bits[count:].any():
        raise MessageError("a bitmap's spare bits are not 0")
    lacking: list[int] = np.flatnonzero(bits).tolist()
    return lacking


def union(bitmaps: Iterable[bytes], count: int) -> bytes:
    """What at least one of the receivers lacks. Raises MessageError as parse_bitmap does."""
    bits = np.zeros(-(-count // 8), np.uint8)
    for bitmap in bitmaps:
        parse_bitmap(bitmap, count)
        bits |= np.frombuffer(bitmap, np.uint8)
    return bits.tobytes()


def count_lacking(bitmap: bytes) -> int:
    """How many chunks are lacking."""
    return int(np.unpackbits(np.frombuffer(bitmap, np.uint8)).sum())
