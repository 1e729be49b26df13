"""Writing an image to a disk, chunk by chunk, in any order, and proving that it is there.

Reads that prove something (scan, read_back) are made with O_DIRECT: the kernel first writes what it still holds of
that range, then the disk itself answers, not the page cache. Where O_DIRECT is not to be had (tmpfs, an extent that
is not a multiple of a sector) the range is flushed and dropped from the page cache before it is read. Neither looks
behind the disk's own cache: what a disk says it stored is believed once `finish` has flushed it.

Long extents are written with O_DIRECT too: no copy, no memory for what is not written yet, and the read that proves it
need not wait for the write-out. Many short ones are left to the page cache, which joins them. Zeros are not written
where the disk can clear a range and then gives zeros.
"""

import errno
import os
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from imager.disk.devices import Device, NotADisk, drop_cache, inspect, reread_partitions, user_of
from imager.disk.gpt import parse_header, relocate_backup
from imager.disk.scattered import ReadBuffer, clear_extents, write_extents
from imager.errors import DiskError, TargetError
from imager.image.chunks import hash_chunk
from imager.image.manifest import Chunk, ImageKind, Manifest
from imager.image.plan import build_bitmap

OnProgress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""
_DIRECT_BYTES = 64 << 10
"""Mean length of a chunk's extents from which on they are written one by one, directly."""
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
"""What a disk says to a direct write that it does not take as it is."""
_SCAN_THREADS = 2
_LARGEST_SAMPLE = 250
"""Of a large image: a disk that holds one chunk in fifty shows it in so many with a probability of 99.4 %."""
_SMALLEST_SAMPLE = 32
"""A disk that holds a tenth of an image shows it in so many with a probability of 97 %."""
_SAMPLED = 8
"""One chunk of so many is in the sample."""
_SCAN_BATCH = 256
"""Chunks that are handed to the threads at once: a disk of a million of them must not become a million futures."""


class DiskTarget:
    """One disk that takes one image. Call check_target first: before it, nothing is opened and nothing is written.

    write_chunk and read_back may be called from several threads, for different chunks. `device` may be a regular
    file that stands for a disk.
    """

    def __init__(self, device: Path, manifest: Manifest) -> None:
        self.device = device
        self.manifest = manifest
        self._descriptor = -1
        self._direct = -1
        self._clears = True
        self._threads = threading.local()
        self._found: Device | None = None

    def __enter__(self) -> "DiskTarget":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check_target(self) -> None:
        """Refuse what must not or cannot be written, with TargetError: not a disk, in use, too small, other sectors.

        Opens the disk for this process alone: while it is open, nobody can mount it.
        """
        manifest = self.manifest
        if manifest.kind is not ImageKind.SECTOR:
            raise TargetError(f"image {manifest.name} is a file, not a disk; it is applied to a volume, not written")
        try:
            found = inspect(self.device)
        except NotADisk as error:
            raise TargetError(f"{error}; nothing was written") from error
        if found.read_only:
            raise TargetError(f"{self.device} is read-only; nothing was written")
        user = user_of(self.device)
        if user is not None:
            raise TargetError(f"{user}; unmount it first; nothing was written")
        if found.is_partition and manifest.table != "none":
            raise TargetError(
                f"{self.device} is a partition, and image {manifest.name} is of a whole disk; name the disk; "
                "nothing was written"
            )
        if found.size_bytes < manifest.source_bytes:
            raise TargetError(
                f"{self.device} has {found.size_bytes} bytes, image {manifest.name} needs {manifest.source_bytes} "
                f"({manifest.source_bytes - found.size_bytes} more); nothing was written"
            )
        if found.is_block and manifest.table != "none" and found.sector_bytes != manifest.sector_bytes:
            raise TargetError(
                f"{self.device} has sectors of {found.sector_bytes} bytes, image {manifest.name} is of a disk with "
                f"{manifest.sector_bytes}; its partition table would not be found; nothing was written"
            )
        self._open(found)

    def scan(self, on_progress: OnProgress | None = None) -> bytes:
        """Hash what the disk holds now. Returns the bitmap of the chunks that it lacks (see imager.image.plan).

        A disk that holds none of a sample is blank or of another system and lacks all but zeros, of which alone
        more is read. What it may hold all the same, a few chunks in a hundred, comes again.
        """
        chunks = self.manifest.chunks
        total, tell = self.manifest.used_bytes, on_progress or _nobody
        lacking: list[int] = []
        with ThreadPoolExecutor(_SCAN_THREADS, "scan") as pool:
            try:
                doubtful = list(range(len(chunks)))
                sample = _sample(self.manifest)
                if sample and not _any_holds(pool.map(self._holds, sample), lambda: tell(0, total)):
                    lacking = [i for i in doubtful if not _is_zeros(chunks[i])]
                    doubtful = [i for i in doubtful if _is_zeros(chunks[i])]
                done = sum(chunks[i].raw_bytes for i in lacking)
                for first in range(0, len(doubtful), _SCAN_BATCH):
                    batch = doubtful[first : first + _SCAN_BATCH]
                    for i, holds in zip(batch, pool.map(self._holds, [chunks[i] for i in batch]), strict=True):
                        if not holds:
                            lacking.append(i)
                        done += chunks[i].raw_bytes
                        tell(done, total)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return build_bitmap(lacking, len(chunks))

    def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None:
        """Write the raw bytes of `chunk` to their places. Not yet flushed. Raises DiskError.

        `raw` is compared in length only: its hash is the caller's to check, before this and by read_back after. It is
        written directly only from the start of a page of memory (see imager.disk.scattered.aligned_memory).
        """
        self._check_open()
        if len(raw) != chunk.raw_bytes:
            raise ValueError(f"chunk of window {chunk.window} has {chunk.raw_bytes} bytes, not {len(raw)}")
        if self._is_aligned(chunk) and (self._clear(chunk) or self._write_direct(chunk, raw)):
            return
        write_extents(self._descriptor, str(self.device), chunk.extents, raw)
        start = chunk.extents[0].offset
        end = chunk.extents[-1].offset + chunk.extents[-1].length
        os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)  # begins the write-out

    def _is_aligned(self, chunk: Chunk) -> bool:
        assert self._found is not None
        sector = self._found.sector_bytes
        return all(e.offset % sector == 0 and e.length % sector == 0 for e in chunk.extents)

    def _clear(self, chunk: Chunk) -> bool:
        if not self._clears or not _is_zeros(chunk):
            return False
        self._clears = clear_extents(self._descriptor, str(self.device), chunk.extents)
        return self._clears

    def _write_direct(self, chunk: Chunk, raw: bytes | memoryview) -> bool:
        """False when it is not to be had, or not worth it."""
        if self._direct < 0 or chunk.raw_bytes < len(chunk.extents) * _DIRECT_BYTES:
            return False
        try:
            write_extents(self._direct, str(self.device), chunk.extents, raw)
        except DiskError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _REFUSED:
                return False
            raise
        return True

    def read_back(self, chunk: Chunk) -> bool:
        """Whether the disk holds `chunk`, read from the disk and not from memory. Raises DiskError."""
        holds = self._holds(chunk)
        if not holds and _is_zeros(chunk):
            self._clears = False  # a disk that cleared a range and does not give zeros: from now on they are written
        return holds

    def finish(self) -> None:
        """Flush the disk, move a GPT's backup to the end of a larger disk, let the kernel read the table, close.

        After it a larger disk's first chunk no longer has its hash: the GPT header in it names the disk's own end.
        Raises DiskError.
        """
        self._check_open()
        assert self._found is not None
        try:
            os.fsync(self._descriptor)
            if self.manifest.table == "gpt" and self._found.size_bytes > self.manifest.source_bytes:
                self._relocate_backup(self._found)
                os.fsync(self._descriptor)
            drop_cache(self._descriptor)
        except OSError as error:
            raise DiskError(str(self.device), 0, error.strerror or str(error)) from error
        if self._found.is_block and self.manifest.table != "none":
            reread_partitions(self._descriptor)
        self.close()

    def close(self) -> None:
        """Give the disk back without flushing it. Safe to repeat."""
        for descriptor in (self._direct, self._descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._direct = self._descriptor = -1

    def _open(self, found: Device) -> None:
        exclusive = os.O_EXCL if found.is_block else 0
        try:
            self._descriptor = os.open(self.device, os.O_RDWR | os.O_CLOEXEC | exclusive)
        except OSError as error:
            raise TargetError(f"{self.device} cannot be opened for writing: {error.strerror}; is it in use?") from error
        try:
            self._direct = os.open(self.device, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            self._direct = -1
        self._found = found
        drop_cache(self._descriptor)

    def _holds(self, chunk: Chunk) -> bool:
        self._check_open()
        raw = self._read_disk(chunk)
        if not _any_byte(raw):  # a blank disk: compare with a known hash instead of computing it each time
            return chunk.hash == _hash_of_zeros(len(raw))
        return hash_chunk(raw) == chunk.hash

    def _read_disk(self, chunk: Chunk) -> memoryview:
        if not hasattr(self._threads, "buffer"):
            self._threads.buffer = ReadBuffer(self.manifest.window_bytes)
        buffer: ReadBuffer = self._threads.buffer
        if self._direct >= 0 and self._is_aligned(chunk):
            try:
                return buffer.read(self._direct, str(self.device), chunk.extents)
            except DiskError:
                pass  # an alignment that this disk does not take, or a true error: the plain way tells which
        start = chunk.extents[0].offset
        end = chunk.extents[-1].offset + chunk.extents[-1].length
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise DiskError(str(self.device), start, error.strerror or str(error)) from error
        os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
        return buffer.read(self._descriptor, str(self.device), chunk.extents)

    def _relocate_backup(self, found: Device) -> None:
        sector = self.manifest.sector_bytes
        mbr = os.pread(self._descriptor, 512, 0)
        primary = os.pread(self._descriptor, sector, sector)
        try:
            header = parse_header(primary)
            entries = os.pread(self._descriptor, header.table_bytes, header.entries_lba * sector)
            relocation = relocate_backup(mbr, primary, entries, found.size_bytes, sector)
        except ValueError as error:
            raise DiskError(
                str(self.device), sector, f"the image's GPT cannot be fitted to this disk: {error}"
            ) from error
        for offset, data in relocation.writes:
            os.pwrite(self._descriptor, data, offset)
            os.fsync(self._descriptor)

    def _check_open(self) -> None:
        if self._descriptor < 0:
            raise ValueError("check_target was not called, or the target is closed")


def _any_holds(found: Iterable[bool], tell: Callable[[], None]) -> bool:
    for holds in found:
        tell()
        if holds:
            return True
    return False


def _nobody(done: int, total: int) -> None:
    pass


def _sample(manifest: Manifest) -> Sequence[Chunk]:
    """Chunks to look at before the whole disk is read: none when the image is so small that it does not matter, and no
    zeros, which a blank disk holds too."""
    telling = [chunk for chunk in manifest.chunks if not _is_zeros(chunk)]
    if len(telling) < _SMALLEST_SAMPLE * _SAMPLED:
        return ()
    chosen = random.Random(manifest.hash).sample(telling, min(_LARGEST_SAMPLE, len(telling) // _SAMPLED))
    return sorted(chosen, key=lambda chunk: chunk.window)  # a disk with heads goes over them once


def _is_zeros(chunk: Chunk) -> bool:
    return chunk.hash == _hash_of_zeros(chunk.raw_bytes)


def _any_byte(raw: memoryview) -> bool:
    whole = len(raw) // 8 * 8
    return bool(np.frombuffer(raw[:whole], np.uint64).any()) or any(raw[whole:])


@lru_cache(maxsize=4096)
def _hash_of_zeros(length: int) -> bytes:
    return hash_chunk(bytes(length))
