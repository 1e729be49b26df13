"""From received chunks to a proven target, with chunks, disks and tasks that go wrong."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_appliance import Appliance
from agent_builders import a_machine
from image_builders import a_manifest

from imager.agent.client import TaskGone
from imager.agent.intake import MAX_DAMAGED, FileTarget, take_in
from imager.agent.tasks import TaskContext
from imager.errors import CastError, DiskError
from imager.image.chunks import Compressor, hash_chunk
from imager.image.manifest import Chunk, Extent, ImageKind, Manifest
from imager.transport.receive import ReceivedChunk
from imager.transport.workers import WORKERS
from imager.wire.session import Holdup

BLOCK = 1 << 20


def a_file_image(count: int) -> tuple[Manifest, list[bytes]]:
    """An image of `count` different chunks, and their stored bytes."""
    raws = [bytes([i]) * BLOCK for i in range(count)]
    compressor = Compressor()
    stored = [compressor.compress(raw) for raw in raws]
    chunks = tuple(
        Chunk(i, (Extent(i * BLOCK, BLOCK),), hash_chunk(raw), BLOCK, len(stored[i])) for i, raw in enumerate(raws)
    )
    manifest = a_manifest(
        kind=ImageKind.FILE, source_bytes=count * BLOCK, sector_bytes=1, layout=(), table="none", chunks=chunks
    )
    return manifest, stored


class Sent:
    """Hands out chunks as a receiver does: each again until it was released as good."""

    def __init__(self, stored: list[bytes], damage: dict[int, int] | None = None) -> None:
        self._stored = stored
        self._damage = damage or {}
        """How often a chunk arrives damaged."""
        self._queue: queue.Queue[int] = queue.Queue()
        self._left = len(stored)
        self._lock = threading.Lock()
        self.handed: list[int] = []
        for index in range(len(stored)):
            self._queue.put(index)

    def chunks(self, ask_holdup: Callable[[], Holdup]) -> Iterator[ReceivedChunk]:
        while self._left:
            try:
                index = self._queue.get(timeout=10)
            except queue.Empty as error:
                raise CastError("nothing was released for 10 s") from error
            if index < 0:
                continue
            data = bytearray(self._stored[index])
            if self._damage.get(index, 0) > 0:
                self._damage[index] -= 1
                data[-1] ^= 0xFF
            self.handed.append(index)
            yield ReceivedChunk(index, memoryview(data))

    def release(self, index: int, ok: bool) -> None:
        with self._lock:
            self._left -= ok
        self._queue.put(-1 if ok else index)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[TaskContext]:
    with Appliance() as appliance:
        yield a_machine(tmp_path, appliance).context


def test_every_chunk_lands_at_its_place_and_is_counted(tmp_path: Path, context: TaskContext) -> None:
    manifest, stored = a_file_image(12)
    context.meter.begin("receive", 12 * BLOCK, 12)
    with FileTarget(tmp_path / "image.wim", manifest) as target:
        take_in(Sent(stored), manifest, target, context)
    assert (tmp_path / "image.wim").read_bytes() == b"".join(bytes([i]) * BLOCK for i in range(12))
    assert (context.meter.snapshot().chunks_done, context.meter.snapshot().done_bytes) == (12, 12 * BLOCK)


def test_a_damaged_chunk_is_asked_for_again_and_never_written(tmp_path: Path, context: TaskContext) -> None:
    manifest, stored = a_file_image(4)
    sent = Sent(stored, damage={2: 2})
    with FileTarget(tmp_path / "image.wim", manifest) as target:
        take_in(sent, manifest, target, context)
    assert sorted(sent.handed) == [0, 1, 2, 2, 2, 3]
    assert hash_chunk((tmp_path / "image.wim").read_bytes()[2 * BLOCK : 3 * BLOCK]) == manifest.chunks[2].hash


def test_a_sender_that_sends_only_damage_is_given_up(tmp_path: Path, context: TaskContext) -> None:
    manifest, stored = a_file_image(2)
    with (
        FileTarget(tmp_path / "image.wim", manifest) as target,
        pytest.raises(CastError, match="roomcast image verify"),
    ):
        take_in(Sent(stored, damage={1: MAX_DAMAGED + 5}), manifest, target, context)


class _LyingDisk:
    """Says that it wrote, and gives back something else."""

    device = Path("/dev/lie")

    def __init__(self, lies: int) -> None:
        self._lies = lies
        self.writes = 0

    def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None:
        self.writes += 1

    def read_back(self, chunk: Chunk) -> bool:
        self._lies -= 1
        return self._lies < 0


def test_a_chunk_that_does_not_read_back_is_written_once_more(context: TaskContext) -> None:
    manifest, stored = a_file_image(1)
    disk = _LyingDisk(lies=1)
    take_in(Sent(stored), manifest, disk, context)
    assert disk.writes == 2


def test_a_disk_that_does_not_keep_what_it_is_given_ends_the_deployment(context: TaskContext) -> None:
    manifest, stored = a_file_image(3)
    with pytest.raises(DiskError, match="/dev/lie: what was written does not read back"):
        take_in(Sent(stored), manifest, _LyingDisk(lies=1000), context)


class _BrokenDisk(_LyingDisk):
    def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None:
        raise DiskError("/dev/sda", chunk.extents[0].offset, "Input/output error")


def test_a_disk_error_ends_it_with_device_and_place(context: TaskContext) -> None:
    manifest, stored = a_file_image(8)
    with pytest.raises(DiskError, match="/dev/sda: Input/output error at byte"):
        take_in(Sent(stored), manifest, _BrokenDisk(0), context)


class _LostAfterOne(Sent):
    """A sender that is gone as soon as its first chunk was taken or refused."""

    def __init__(self, stored: list[bytes]) -> None:
        super().__init__(stored)
        self._released = threading.Event()

    def chunks(self, ask_holdup: Callable[[], Holdup]) -> Iterator[ReceivedChunk]:
        yield next(super().chunks(ask_holdup))
        assert self._released.wait(10)
        raise CastError("the sender is silent")

    def release(self, index: int, ok: bool) -> None:
        self._released.set()


def test_the_disk_that_failed_is_named_and_not_the_session_that_was_lost_over_it(context: TaskContext) -> None:
    manifest, stored = a_file_image(2)
    with pytest.raises(DiskError, match="/dev/sda: Input/output error at byte"):
        take_in(_LostAfterOne(stored), manifest, _BrokenDisk(0), context)


def test_a_lost_session_is_told_when_the_disk_is_well(context: TaskContext) -> None:
    manifest, stored = a_file_image(2)
    with pytest.raises(CastError, match="the sender is silent"):
        take_in(_LostAfterOne(stored), manifest, _LyingDisk(lies=0), context)


class _SlowDisk(_LyingDisk):
    """Waits at its first write until it is told to go on."""

    def __init__(self) -> None:
        super().__init__(lies=0)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None:
        super().write_chunk(chunk, raw)
        self.reached.set()
        assert self.go_on.wait(10)


class _Asking(Sent):
    """Asks what holds the program up, once all chunks are handed out and the disk has been reached."""

    def __init__(self, stored: list[bytes], disk: _SlowDisk) -> None:
        super().__init__(stored)
        self._disk = disk
        self.told = Holdup.NONE

    def chunks(self, ask_holdup: Callable[[], Holdup]) -> Iterator[ReceivedChunk]:
        handed = super().chunks(ask_holdup)
        for _ in self._stored:
            yield next(handed)
        assert self._disk.reached.wait(10)
        ask_holdup()
        deadline = time.monotonic() + 10
        while self.told is not Holdup.DISK and time.monotonic() < deadline:
            self.told = ask_holdup()
        self._disk.go_on.set()
        yield from handed


def test_a_disk_that_hangs_is_told_while_more_chunks_wait_for_it(context: TaskContext) -> None:
    manifest, stored = a_file_image(12)
    disk = _SlowDisk()
    sent = _Asking(stored, disk)
    take_in(sent, manifest, disk, context)
    assert (sent.told, disk.writes) == (Holdup.DISK, 12)


class _Cancelled(Sent):
    """The task is ended while the disk writes the first of several chunks."""

    def __init__(self, stored: list[bytes], disk: _SlowDisk, gone: threading.Event) -> None:
        super().__init__(stored)
        self._disk, self._gone = disk, gone

    def chunks(self, ask_holdup: Callable[[], Holdup]) -> Iterator[ReceivedChunk]:
        handed = super().chunks(ask_holdup)
        for _ in self._stored[1:]:
            yield next(handed)
        assert self._disk.reached.wait(10)
        self._gone.set()
        threading.Timer(0.5, self._disk.go_on.set).start()
        yield next(handed)


def test_chunks_that_wait_when_the_task_is_cancelled_are_not_written(context: TaskContext) -> None:
    manifest, stored = a_file_image(40)
    disk = _SlowDisk()
    with pytest.raises(TaskGone):
        take_in(_Cancelled(stored, disk, context.gone), manifest, disk, context)
    assert disk.writes <= WORKERS


def test_a_cancelled_task_stops_between_two_chunks(tmp_path: Path, context: TaskContext) -> None:
    manifest, stored = a_file_image(8)
    context.gone.set()
    sent = Sent(stored)
    with FileTarget(tmp_path / "image.wim", manifest) as target, pytest.raises(TaskGone):
        take_in(sent, manifest, target, context)
    assert len(sent.handed) == 1
