"""Reading a disk or an image file as chunks.

Plan first (`plan_capture`: is it free, how is it divided, what is in use), then read (`capture_source`): two worker
threads read, hash and compress; chunks come out in order of their windows. `capture_image` does both into a store.
"""

import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imager.disk.devices import NotADisk, drop_cache, inspect, user_of
from imager.disk.partitions import Layout, read_layout
from imager.disk.scattered import ReadBuffer
from imager.disk.used_blocks import find_used_blocks
from imager.errors import SourceError, ToolError
from imager.image.chunks import DEFAULT_LEVEL, Compressor, hash_chunk
from imager.image.extents import cut_windows, total_bytes
from imager.image.manifest import DEFAULT_WINDOW_BYTES, Chunk, Extent, ImageKind, Manifest, Partition, check_name
from imager.image.store import ImageStore

WORKERS = 2
_IN_FLIGHT = 8
"""Chunks that are read ahead of the consumer: with windows of 1 MiB, some 16 MiB of memory."""

OnProgress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""
IsKnown = Callable[[bytes], bool]
"""Whether the chunk with this hash is held already. Called from the worker threads."""


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """What a capture will read."""

    source: Path
    source_bytes: int
    sector_bytes: int
    layout: Layout
    extents: tuple[Extent, ...]
    """Used bytes, sorted."""
    raw_parts: Mapping[int, str]
    """Partition number (0: the whole source): why all of it is imaged."""

    @property
    def used_bytes(self) -> int:
        """What will be read and hashed."""
        return total_bytes(self.extents)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Of the manifest."""
        return self.layout.partitions


def plan_capture(source: Path) -> CapturePlan:
    """Look at a block device or an image file. Raises SourceError when it is missing, mounted or otherwise in use.

    Takes some seconds: partclone walks the file systems' own maps. Nothing is written; loop devices that it needs
    are gone when it returns.
    """
    try:
        source = source.resolve()  # sfdisk names the partitions of /dev/disk/by-id/NAME in its own way
        device = inspect(source)
    except NotADisk as error:
        raise SourceError(f"{error}; name a disk, a partition or an image file") from error
    user = user_of(source)
    if user is not None:
        raise SourceError(f"{user}; unmount it, so that the image is of one moment, and capture again")
    try:
        layout = read_layout(source, device.size_bytes)
        used = find_used_blocks(source, device.size_bytes, device.sector_bytes, layout)
    except ToolError as error:
        raise SourceError(f"{source} cannot be looked at: {error}") from error
    return CapturePlan(source, device.size_bytes, device.sector_bytes, layout, used.extents, used.raw_parts)


def capture_source(
    source: Path,
    *,
    window_bytes: int = DEFAULT_WINDOW_BYTES,
    on_progress: OnProgress | None = None,
    level: int = DEFAULT_LEVEL,
    is_known: IsKnown | None = None,
    plan: CapturePlan | None = None,
) -> Iterator[tuple[Chunk, bytes]]:
    """The chunks of `source` in order of their windows, each with its stored bytes.

    A chunk that `is_known` says is held is not compressed: its stored bytes are empty and its `stored_bytes` is 0,
    which the store fills in when the manifest is published. `plan`: from plan_capture, when it was made before.
    Close the iterator (or let it end) to stop the threads. Raises SourceError, DiskError.
    """
    if plan is None:
        plan = plan_capture(source)
    return read_chunks(
        source, plan.extents, window_bytes=window_bytes, on_progress=on_progress, level=level, is_known=is_known
    )


def read_chunks(
    source: Path,
    extents: tuple[Extent, ...],
    *,
    window_bytes: int = DEFAULT_WINDOW_BYTES,
    on_progress: OnProgress | None = None,
    level: int = DEFAULT_LEVEL,
    is_known: IsKnown | None = None,
) -> Iterator[tuple[Chunk, bytes]]:
    """The chunks of any readable file or device for known used extents. As capture_source.

    A device is opened for this process alone: while it is read, nobody can mount it. SourceError when somebody has it.
    """
    total, done = total_bytes(extents), 0
    try:
        alone = os.O_EXCL if stat.S_ISBLK(source.stat().st_mode) else 0  # open(2): of a file it says nothing
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | alone)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SourceError(f"{source} is in use; unmount it, so that the image is of one moment") from error
        raise SourceError(f"{source} cannot be opened: {error.strerror}") from error
    own = threading.local()

    def make(window: int, inside: tuple[Extent, ...]) -> tuple[Chunk, bytes]:
        if not hasattr(own, "buffer"):
            own.buffer, own.compressor = ReadBuffer(window_bytes), Compressor(level)
        raw = own.buffer.read(descriptor, str(source), inside)
        digest = hash_chunk(raw)
        stored = b"" if is_known is not None and is_known(digest) else own.compressor.compress(raw)
        return Chunk(window, inside, digest, len(raw), len(stored)), stored

    pending: deque[Future[tuple[Chunk, bytes]]] = deque()
    pool = ThreadPoolExecutor(WORKERS, "capture")
    try:
        drop_cache(descriptor)
        windows = cut_windows(extents, window_bytes)
        ended = False
        while pending or not ended:
            while not ended and len(pending) < _IN_FLIGHT:
                following = next(windows, None)
                if following is None:
                    ended = True
                else:
                    pending.append(pool.submit(make, *following))
            if not pending:
                break
            chunk, stored = pending.popleft().result()
            done += chunk.raw_bytes
            yield chunk, stored
            if on_progress is not None:
                on_progress(done, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.close(descriptor)


def describe_capture(
    plan: CapturePlan,
    name: str,
    chunks: tuple[Chunk, ...],
    *,
    window_bytes: int = DEFAULT_WINDOW_BYTES,
    created_s: int | None = None,
    facts: Mapping[str, str] | None = None,
) -> Manifest:
    """The unsigned manifest of a capture, version 0: for StoreWriter.publish or, by HTTP, for the appliance."""
    all_facts = dict(facts or {})
    if plan.layout.filesystem:
        all_facts["filesystem"] = plan.layout.filesystem
    for number, reason in plan.raw_parts.items():
        all_facts[f"raw.{number}"] = reason
    return Manifest(
        check_name(name),
        0,
        ImageKind.SECTOR,
        int(time.time()) if created_s is None else created_s,
        plan.source_bytes,
        plan.sector_bytes,
        window_bytes,
        plan.partitions,
        plan.layout.table,
        all_facts,
        chunks,
    )


def capture_image(
    store: ImageStore,
    source: Path,
    name: str,
    *,
    window_bytes: int = DEFAULT_WINDOW_BYTES,
    on_progress: OnProgress | None = None,
    level: int = DEFAULT_LEVEL,
    facts: Mapping[str, str] | None = None,
) -> Manifest:
    """Capture `source` as the next version of image `name`: whole, or not at all.

    Raises ManifestError for a bad name, SourceError, DiskError, StoreError.
    """
    check_name(name)
    with store.writer() as writer:
        plan = plan_capture(source)
        chunks = []
        for chunk, stored in capture_source(
            source, window_bytes=window_bytes, on_progress=on_progress, level=level, is_known=writer.has, plan=plan
        ):
            if stored:
                writer.put(chunk.hash, stored, chunk.raw_bytes)
            chunks.append(chunk)
        return writer.publish(describe_capture(plan, name, tuple(chunks), window_bytes=window_bytes, facts=facts))
