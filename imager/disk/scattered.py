"""Reading, writing and clearing the used bytes of one window: many extents of a device, one run of memory.

A read is one system call over neighbouring extents: what lies between them lands in a scratch buffer. So a window
costs the disk one access, not one an extent.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Sequence

from imager.errors import DiskError
from imager.image.manifest import Extent

_LARGEST_GAP_BYTES = 128 << 10
"""Reading over a gap of this size costs less than another access."""
_LARGEST_VECTOR = 1000
"""Below IOV_MAX (1,024)."""


# Linux: include/uapi/linux/falloc.h
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_NOT_TO_BE_HAD = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})
_libc = ctypes.CDLL(None, use_errno=True)


def aligned_memory(size: int) -> memoryview:
    """At least `size` bytes from the start of a page, as O_DIRECT wants them."""
    return memoryview(mmap.mmap(-1, max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE))


class ReadBuffer:
    """Memory for the raw bytes of one window and for what lies between its extents; page-aligned, so that O_DIRECT
    takes it. One thread's own."""

    def __init__(self, window_bytes: int) -> None:
        self._raw = aligned_memory(window_bytes)
        self._gap = memoryview(mmap.mmap(-1, _LARGEST_GAP_BYTES))

    def read(self, descriptor: int, device: str, extents: Sequence[Extent]) -> memoryview:
        """The bytes of `extents` in order. The view is valid until the next read. Raises DiskError."""
        filled = 0
        for start, vector in self._calls(extents):
            wanted = sum(len(view) for view in vector)
            try:
                got = os.preadv(descriptor, vector, start)
                while got < wanted:
                    more = os.preadv(descriptor, _rest(vector, got), start + got)
                    if more == 0:
                        raise DiskError(device, start + got, "the device ends before its image does")
                    got += more
            except OSError as error:
                raise DiskError(device, start, error.strerror or str(error)) from error
        filled = sum(extent.length for extent in extents)
        return self._raw[:filled]

    def _calls(self, extents: Sequence[Extent]) -> Iterator[tuple[int, list[memoryview]]]:
        filled, start, end = 0, 0, 0
        vector: list[memoryview] = []
        for extent in extents:
            gap = extent.offset - end
            if vector and (gap > _LARGEST_GAP_BYTES or len(vector) >= _LARGEST_VECTOR):
                yield start, vector
                vector = []
            if not vector:
                start = extent.offset
            elif gap:
                vector.append(self._gap[:gap])
            vector.append(self._raw[filled : filled + extent.length])
            filled += extent.length
            end = extent.offset + extent.length
        if vector:
            yield start, vector


def write_extents(descriptor: int, device: str, extents: Sequence[Extent], raw: bytes | memoryview) -> None:
    """Write `raw` over `extents` in order and nothing between them. Raises DiskError."""
    view = memoryview(raw)
    at = 0
    for extent in extents:
        done = 0
        while done < extent.length:
            try:
                done += os.pwrite(descriptor, view[at + done : at + extent.length], extent.offset + done)
            except OSError as error:
                raise DiskError(device, extent.offset + done, _cause(error)) from error
        at += extent.length


def clear_extents(descriptor: int, device: str, extents: Sequence[Extent]) -> bool:
    """Make `extents` read as zeros without writing them, where that is certain: a device that discards and then reads
    zeros, a file system with holes. False when it is not to be had: then nothing is promised of what they hold. Raises
    DiskError.
    """
    for extent in extents:
        offset, length = ctypes.c_int64(extent.offset), ctypes.c_int64(extent.length)
        if _libc.fallocate64(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
            error = ctypes.get_errno()
            if error in _NOT_TO_BE_HAD:
                return False
            raise DiskError(device, extent.offset, os.strerror(error))
    return True


def _cause(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space is left"
    return error.strerror or str(error)


def _rest(vector: list[memoryview], done: int) -> list[memoryview]:
    rest = []
    for view in vector:
        if done >= len(view):
            done -= len(view)
        else:
            rest.append(view[done:])
            done = 0
    return rest
