"""From a received chunk to bytes that are proven to be on the disk: decompress, compare, write, read back.

Worker threads do the work (zstd, BLAKE3 and disk calls release the GIL); the caller's thread hands them chunks. A
chunk counts only when it was read back; one that arrived damaged is asked for again.
"""

import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from imager.agent.tasks import TaskContext
from imager.errors import CastError, ChunkError, DiskError
from imager.image.chunks import Decompressor, hash_chunk
from imager.image.manifest import Chunk, Manifest
from imager.image.plan import full_bitmap
from imager.transport.receive import ReceivedChunk

MAX_DAMAGED = 20
"""Chunks that arrive whole but with a wrong hash before a session is called broken: packets are checked by the
network, so more than a few mean that the sender reads a damaged store."""
WRITE_TRIES = 2
WORKERS = min(4, max(2, os.cpu_count() or 2))
QUEUE_LENGTH = 2 * WORKERS


class Source(Protocol):
    """What hands out received chunks: imager.transport.receive.ReceiveProcess."""

    def chunks(self) -> Iterator[ReceivedChunk]: ...

    def release(self, index: int, ok: bool) -> None: ...


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
    """The workers of one receiving and what they found."""

    def __init__(self, source: Source, manifest: Manifest, target: Target, context: TaskContext) -> None:
        self._source = source
        self._manifest = manifest
        self._target = target
        self._context = context
        self._queue: queue.Queue[ReceivedChunk | None] = queue.Queue(QUEUE_LENGTH)
        self._lock = threading.Lock()
        self._damaged = 0
        self.error: Exception | None = None

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, name=f"write-{i}", daemon=True) for i in range(WORKERS)]
        for thread in threads:
            thread.start()
        lost: CastError | None = None
        try:
            for received in self._source.chunks():
                self._context.check_wanted()
                if self.error is not None:
                    break
                self._queue.put(received)
        except CastError as error:
            lost = error
        finally:
            for _ in threads:
                self._queue.put(None)
            for thread in threads:
                thread.join()
        # A disk that fails takes no chunks, and the session may be lost over that: the disk is what to mend.
        if lost is not None and not isinstance(self.error, DiskError):
            raise lost
        if self.error is not None:
            raise self.error from lost

    def _work(self) -> None:
        decompressor = Decompressor()
        while (received := self._queue.get()) is not None:
            # After the first error the others only give memory back. An error releases its chunk as bad, so that it
            # comes again and wakes the thread that waits for chunks.
            ok = False
            try:
                if self.error is None:
                    ok = self._take(decompressor, received)
            except Exception as error:
                with self._lock:
                    self.error = self.error or error
            received.data.release()
            self._source.release(received.index, ok)

    def _take(self, decompressor: Decompressor, received: ReceivedChunk) -> bool:
        chunk = self._manifest.chunks[received.index]
        try:
            raw = decompressor.open(received.data, chunk.raw_bytes, chunk.hash)
        except ChunkError as error:
            with self._lock:
                self._damaged += 1
                damaged = self._damaged
            self._context.say(f"chunk {received.index}: {error}; asking for it again")
            if damaged > MAX_DAMAGED:
                raise CastError(
                    f"{damaged} chunks arrived with wrong hashes: run `roomcast image verify` on the appliance"
                ) from error
            return False
        for _ in range(WRITE_TRIES):
            self._target.write_chunk(chunk, raw)
            if self._target.read_back(chunk):
                self._context.meter.advance(chunk.raw_bytes, 1)
                return True
        place = chunk.extents[0].offset
        raise DiskError(
            str(self._target.device), place, f"what was written does not read back after {WRITE_TRIES} tries"
        )


def take_in(source: Source, manifest: Manifest, target: Target, context: TaskContext) -> None:
    """Take every chunk that `source` hands out onto `target`.

    Raises DiskError, CastError, or TaskGone when the appliance ended the task; chunks that were taken stay.
    """
    _Intake(source, manifest, target, context).run()
