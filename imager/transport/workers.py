"""Threads that take received chunks in: check, write, prove. And the truth about what holds them up.

The heavy work (zstd, BLAKE3, disk calls) releases the GIL, so threads run side by side. The thread that hands them
their chunks never waits for them: what lies before them is bounded by the slots of the receiver, and it stays free to
hear that the session is lost, or what time it is.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from imager.errors import CastError, DiskError, TargetError
from imager.multicast.holdup import Effort, Stage
from imager.transport.receive import ReceivedChunk
from imager.wire.session import Holdup

WORKERS = min(4, max(2, os.cpu_count() or 2))


class Source(Protocol):
    """What hands out received chunks: imager.transport.receive.ReceiveProcess."""

    def chunks(self, ask_holdup: Callable[[], Holdup]) -> Iterator[ReceivedChunk]: ...

    def release(self, index: int, ok: bool) -> None: ...


Take = Callable[[ReceivedChunk], bool]
"""Takes one chunk; False when its bytes are wrong: it is asked for again."""
Storing = Callable[[], contextlib.AbstractContextManager[None]]
"""A context for what waits for the disk."""


def take_chunks(
    source: Source,
    make_take: Callable[[Storing], Take],
    check: Callable[[], None] = lambda: None,
    workers: int = WORKERS,
) -> None:
    """Take in every chunk that `source` hands out.

    `make_take` is called in each worker's thread, for what only that thread uses. `check` is called before each chunk
    and twice a second, and ends it all by raising. Raises what a worker raised first, or CastError when the session was
    lost; chunks that were taken stay.
    """
    _Crew(source, make_take, workers).run(check)


class _Crew:
    def __init__(self, source: Source, make_take: Callable[[Storing], Take], workers: int) -> None:
        self._source = source
        self._make_take = make_take
        self._queue: queue.SimpleQueue[ReceivedChunk | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._effort = Effort(workers, time.monotonic())
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"take-{number}", daemon=True)
            for number in range(workers)
        ]
        self._error: Exception | None = None
        self._stopped = False

    def run(self, check: Callable[[], None]) -> None:
        for thread in self._threads:
            thread.start()
        lost: CastError | None = None
        try:
            for received in self._source.chunks(lambda: self._holdup(check)):
                check()
                if self._error is not None:
                    break
                self._queue.put(received)
        except CastError as error:
            lost = error  # what is whole already is taken in all the same: it need not be sent again
        except BaseException:
            self._stopped = True
            raise
        finally:
            for _ in self._threads:
                self._queue.put(None)
            for thread in self._threads:
                thread.join()
        # A disk that fails takes no chunks, and the session may be lost over that: the disk is what to mend.
        if lost is not None and not isinstance(self._error, DiskError | TargetError):
            raise lost
        if self._error is not None:
            raise self._error from lost

    def _work(self, number: int) -> None:
        take: Take | None = None
        while (received := self._queue.get()) is not None:
            # After the first error, or an end from outside, the others only give memory back. An error releases its
            # chunk as bad, so that it comes again and wakes the thread that waits for chunks.
            self._enter(number, Stage.COMPUTING)
            ok = False
            try:
                if self._error is None and not self._stopped:
                    if take is None:
                        take = self._make_take(lambda: self._storing(number))
                    ok = take(received)
            except Exception as error:
                with self._lock:
                    self._error = self._error or error
            received.data.release()
            self._source.release(received.index, ok)
            self._enter(number, Stage.WAITING)

    @contextlib.contextmanager
    def _storing(self, number: int) -> Iterator[None]:
        self._enter(number, Stage.STORING)
        try:
            yield
        finally:
            self._enter(number, Stage.COMPUTING)

    def _enter(self, number: int, stage: Stage) -> None:
        with self._lock:
            self._effort.enter(number, stage, time.monotonic(), time.thread_time())

    def _holdup(self, check: Callable[[], None]) -> Holdup:
        check()
        with self._lock:
            return self._effort.holdup(time.monotonic())
