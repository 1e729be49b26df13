"""Writing an image from a store to a disk or a file of this machine: a cast without its network."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from imager.disk.scattered import aligned_memory
from imager.disk.writer import DiskTarget
from imager.errors import DiskError, TargetError
from imager.image.chunks import Decompressor
from imager.image.manifest import ImageKind, Manifest
from imager.image.plan import parse_bitmap
from imager.image.store import ImageStore, StoredImage

OnProgress = Callable[[str, int, int], None]
"""(step: scan or write, bytes done, bytes in all)"""
_WORKERS = 2
_IN_FLIGHT = 8
_LAG = 16
"""Chunks between a write and its proof; more than are in flight, so that a proof never overtakes its write."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    manifest: Manifest
    written_chunks: int
    skipped_chunks: int
    """Held by the target before."""
    written_bytes: int


def restore_image(
    store: ImageStore,
    name: str,
    version: int | None,
    target: Path,
    *,
    on_progress: OnProgress | None = None,
) -> Restored:
    """Write an image to a disk, or make the file `target` when there is none; every chunk is read back.

    Raises UnknownImage, StoreError, ChunkError, TargetError, DiskError.
    """
    manifest = store.manifest(name, version)
    if not target.exists() and manifest.kind is ImageKind.SECTOR:
        try:
            with target.open("xb") as file:
                file.truncate(manifest.source_bytes)
        except OSError as error:
            raise TargetError(f"{target} cannot be made: {error.strerror}") from error
    with DiskTarget(target, manifest) as disk:
        disk.check_target()
        lacking = disk.scan(None if on_progress is None else lambda done, total: on_progress("scan", done, total))
        wanted = parse_bitmap(lacking, len(manifest.chunks))
        written = _write(disk, StoredImage(manifest, store), manifest, wanted, on_progress)
        disk.finish()
    return Restored(manifest, len(wanted), len(manifest.chunks) - len(wanted), written)


def _write(
    disk: DiskTarget, stored: StoredImage, manifest: Manifest, wanted: list[int], on_progress: OnProgress | None
) -> int:
    """Each chunk is read back some chunks after it was written: by then the kernel has written it out by itself, and
    the read does not wait for the disk to turn."""
    total, done = sum(manifest.chunks[i].raw_bytes for i in wanted), 0
    own = local()

    def step(number: int) -> int:
        """Write one chunk, prove another. Returns the bytes that were proven."""
        if number < len(wanted):
            if not hasattr(own, "decompressor"):
                own.decompressor, own.room = Decompressor(), aligned_memory(manifest.window_bytes)
            index = wanted[number]
            chunk = manifest.chunks[index]
            raw = own.room[: chunk.raw_bytes]
            own.decompressor.open_into(stored.read(index), raw, chunk.hash)
            disk.write_chunk(chunk, raw)
        if number < _LAG:
            return 0
        chunk = manifest.chunks[wanted[number - _LAG]]
        if not disk.read_back(chunk):
            raise DiskError(str(disk.device), chunk.extents[0].offset, "the disk does not hold what was written")
        return chunk.raw_bytes

    pending: deque[Future[int]] = deque()
    with ThreadPoolExecutor(_WORKERS, "restore") as pool:
        try:
            for number in range(len(wanted) + _LAG if wanted else 0):
                pending.append(pool.submit(step, number))
                while len(pending) >= _IN_FLIGHT or (pending and number == len(wanted) + _LAG - 1):
                    done += pending.popleft().result()
                    if on_progress is not None:
                        on_progress("write", done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return done
