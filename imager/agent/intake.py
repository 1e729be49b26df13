"""From a received chunk to bytes that are proven to be on the disk: decompress, compare, write, read back.

Each worker (imager.transport.workers) takes its chunk all this way in memory of its own, which the disk reads without
a copy. A chunk counts only when it was read back; one that arrived damaged is asked for again.
"""

import os
import threading
from pathlib import Path
from typing import Protocol

from imager.agent.tasks import TaskContext
from imager.disk.scattered import aligned_memory
from imager.errors import CastError, ChunkError, DiskError
from imager.image.chunks import Decompressor, hash_chunk
from imager.image.manifest import Chunk, Manifest
from imager.image.plan import full_bitmap
from imager.transport.receive import ReceivedChunk
from imager.transport.workers import WORKERS, Source, Storing, Take, take_chunks

MAX_DAMAGED = 20
"""Chunks that arrive whole but with a wrong hash before a session is called broken: packets are checked by the
network, so more than a few mean that the sender reads a damaged store."""
WRITE_TRIES = 2


class Target(Protocol):
    """Where chunks go: imager.disk.writer.DiskTarget or FileTarget. Called from several threads."""

    device: Path

    def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None: ...

    def read_back(self, chunk: Chunk) -> bool: ...


class FileTarget:
    """A file that takes a file image; nothing of it is there before, so a scan finds all chunks lacking."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.device = path
        self._manifest = manifest
        self._descriptor = -1

    def __enter__(self) -> "FileTarget":
        self._descriptor = os.open(self.device, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, self._manifest.source_bytes)
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def scan(self) -> bytes:
        return full_bitmap(len(self._manifest.chunks))

    def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None:
        """As DiskTarget.write_chunk. Raises DiskError."""
        view = memoryview(raw)
        for extent in chunk.extents:
            part, view = view[: extent.length], view[extent.length :]
            offset = extent.offset
            while part:
                try:
                    written = os.pwrite(self._descriptor, part, offset)
                except OSError as error:
                    raise DiskError(str(self.device), offset, error.strerror or str(error)) from error
                part, offset = part[written:], offset + written

    def read_back(self, chunk: Chunk) -> bool:
        raw = b"".join(os.pread(self._descriptor, extent.length, extent.offset) for extent in chunk.extents)
        return hash_chunk(raw) == chunk.hash


class _Intake:
    """One receiving, as its workers see it."""

    def __init__(self, manifest: Manifest, target: Target, context: TaskContext) -> None:
        self._manifest = manifest
        self._target = target
        self._context = context
        self._lock = threading.Lock()
        self._damaged = 0

    def make_take(self, storing: Storing) -> Take:
        """For one worker, with memory of its own."""
        decompressor = Decompressor()
        room = aligned_memory(self._manifest.window_bytes)

        def take(received: ReceivedChunk) -> bool:
            chunk = self._manifest.chunks[received.index]
            raw = room[: chunk.raw_bytes]
            try:
                decompressor.open_into(received.data, raw, chunk.hash)
            except ChunkError as error:
                self._note_damaged(received.index, error)
                return False
            with storing():
                self._store(chunk, raw)
            self._context.meter.advance(chunk.raw_bytes, 1)
            return True

        return take

    def _note_damaged(self, index: int, error: ChunkError) -> None:
        with self._lock:
            self._damaged += 1
            damaged = self._damaged
        self._context.say(f"chunk {index}: {error}; asking for it again")
        if damaged > MAX_DAMAGED:
            raise CastError(
                f"{damaged} chunks arrived with wrong hashes: run `roomcast image verify` on the appliance"
            ) from error

    def _store(self, chunk: Chunk, raw: memoryview) -> None:
        for _ in range(WRITE_TRIES):
            self._target.write_chunk(chunk, raw)
            if self._target.read_back(chunk):
                return
        place = chunk.extents[0].offset
        raise DiskError(
            str(self._target.device), place, f"what was written does not read back after {WRITE_TRIES} tries"
        )


def workers_bytes(manifest: Manifest) -> int:
    """What the workers of `take_in` take for themselves: a window to write and a window to read back each."""
    return WORKERS * 2 * manifest.window_bytes


def take_in(source: Source, manifest: Manifest, target: Target, context: TaskContext) -> None:
    """Take every chunk that `source` hands out onto `target`.

    Raises DiskError, CastError, or TaskGone when the appliance ended the task; chunks that were taken stay.
    """
    take_chunks(source, _Intake(manifest, target, context).make_take, context.check_cast)
