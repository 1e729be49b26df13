"""Writing an image from a store to a disk or a file of this machine: a cast without its network."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from imager.disk.writer import DiskTarget
from imager.errors import DiskError, TargetError
from imager.image.chunks import Decompressor
from imager.image.manifest import Chunk, ImageKind, Manifest
from imager.image.plan import parse_bitmap
from imager.image.store import ImageStore, StoredImage

OnProgress = Callable[[str, int, int], None]
"""(step: scan or write, bytes done, bytes in all)"""
_WORKERS = 2


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
    total, done = sum(manifest.chunks[i].raw_bytes for i in wanted), 0
    own = local()

    def place(index: int) -> Chunk:
        if not hasattr(own, "decompressor"):
            own.decompressor = Decompressor()
        chunk = manifest.chunks[index]
        raw = own.decompressor.open(stored.read(index), chunk.raw_bytes, chunk.hash)
        disk.write_chunk(chunk, raw)
        if not disk.read_back(chunk):
            raise DiskError(str(disk.device), chunk.extents[0].offset, "the disk does not hold what was written")
        return chunk

    with ThreadPoolExecutor(_WORKERS, "restore") as pool:
        try:
            for chunk in pool.map(place, wanted):
                done += chunk.raw_bytes
                if on_progress is not None:
                    on_progress("write", done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return done
