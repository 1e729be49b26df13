"""Captures that arrive from agents: chunks are checked and kept, the manifest publishes them all or nothing stays.

Each capture task has a writer of the store, opened when its first chunk is asked for, used by one call at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog
import zstandard

from imager.errors import ChunkError
from imager.image.chunks import Decompressor
from imager.image.manifest import LARGEST_WINDOW_BYTES, Manifest, parse_unsigned
from imager.image.store import ImageStore, StoreWriter
from netboot.errors import ConflictError, UserError

WRITING_THREADS = 2
LARGEST_STORED_BYTES = LARGEST_WINDOW_BYTES + LARGEST_WINDOW_BYTES // 64 + 4096
"""Of one chunk: what compression can make of a whole window."""

Result = TypeVar("Result")

log = structlog.get_logger()


@dataclass
class _Upload:
    writer: StoreWriter
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Captures:
    """The uploads under way. `close()` when done: what is not published is thrown away."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._uploads: dict[int, _Upload] = {}
        self._ended: set[int] = set()
        """Tasks that must not open an upload any more: a request of theirs may still be on its way."""
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(WRITING_THREADS, "captures")

    async def has(self, task_id: int, chunk: bytes) -> bool:
        """Whether this chunk need not be sent."""
        upload = await self._upload(task_id)
        return await self._run(lambda: upload.writer.has(chunk))

    async def put(self, task_id: int, chunk: bytes, stored: bytes) -> None:
        """Keep one chunk, after its raw bytes' hash held. Raises ChunkError when they are not what the hash says."""
        raw_bytes = await self._run(lambda: check_stored(chunk, stored))
        upload = await self._upload(task_id)
        async with upload.lock:
            if self._uploads.get(task_id) is not upload:
                raise ConflictError(f"task {task_id} has ended")
            await self._run(lambda: upload.writer.put(chunk, stored, raw_bytes))

    async def publish(self, task_id: int, image: str, body: bytes) -> Manifest:
        """Sign and publish the manifest as the image's next version.

        Raises ManifestError for a body that is none, UserError when it is of another image or chunks are missing.
        """
        manifest = await self._run(lambda: parse_unsigned(body))
        if manifest.name != image:
            raise UserError(f"the manifest is of image {manifest.name}, the task is to capture {image}")
        upload = await self._upload(task_id)
        async with upload.lock:
            if self._uploads.get(task_id) is not upload:
                raise ConflictError(f"task {task_id} has ended")
            lacking = await self._run(lambda: sum(not upload.writer.has(chunk.hash) for chunk in manifest.chunks))
            if lacking:
                raise UserError(f"{lacking} chunks of the manifest were never sent")
            published = await self._run(lambda: upload.writer.publish(replace(manifest, version=0)))
            self._uploads.pop(task_id, None)
            await self._run(upload.writer.close)
        log.info("image published", image=published.name, version=published.version, task=task_id)
        return published

    @asynccontextmanager
    async def ending(self, task_id: int) -> AsyncIterator[None]:
        """Around the end of a task: a publishing that is under way comes first, then what was uploaded is thrown away
        and nothing can be published any more.
        """
        upload = self._uploads.get(task_id)
        if upload is None:
            yield
            self._ended.add(task_id)
            return
        async with upload.lock:
            yield
            self._ended.add(task_id)
            if self._uploads.pop(task_id, None) is not None:
                await self._run(upload.writer.close)
                log.info("unfinished capture thrown away", task=task_id)

    async def abandon(self, task_id: int) -> None:
        """Throw away what an unfinished capture uploaded; nothing to do for any other task."""
        upload = self._uploads.pop(task_id, None)
        if upload is None:
            return
        async with upload.lock:
            await self._run(upload.writer.close)
        log.info("unfinished capture thrown away", task=task_id)

    async def close(self) -> None:
        for task_id in list(self._uploads):
            await self.abandon(task_id)
        self._threads.shutdown(wait=True)

    async def _upload(self, task_id: int) -> _Upload:
        async with self._opening:
            if task_id in self._ended:
                raise ConflictError(f"task {task_id} has ended")
            if task_id not in self._uploads:
                self._uploads[task_id] = _Upload(await self._run(self._store.writer))
            return self._uploads[task_id]

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def check_stored(chunk: bytes, stored: bytes) -> int:
    """The raw length of a stored chunk whose hash holds. Raises ChunkError otherwise.

    The frame says its length before anything is allocated; frames beyond the largest window are refused.
    """
    try:
        raw_bytes = zstandard.frame_content_size(stored)
    except zstandard.ZstdError as error:
        raise ChunkError(f"the chunk is not a zstd frame: {error}") from error
    if not 0 < raw_bytes <= LARGEST_WINDOW_BYTES:
        raise ChunkError(f"the chunk's frame must say its length, 1 to {LARGEST_WINDOW_BYTES} bytes")
    Decompressor().open(stored, raw_bytes, chunk)
    return raw_bytes
