"""[S] Threads that send pieces of files: the sources take turns, and no source holds more than its share of them.

Daemon threads, not an executor's, for which the interpreter waits when it ends: one that a disk holds up is left to the
kernel.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future

_Job = tuple[Future[int], Callable[[], int]]


class FileThreads:
    """Started as they are needed. `submit` and `close` may be called from any thread."""

    def __init__(self, most: int, share: int, name: str) -> None:
        """`share`: how many of them may work for one source at once."""
        self._most = most
        self._share = share
        self._name = name
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._waiting: dict[Hashable, deque[_Job]] = {}
        """By source, the one whose turn is next first."""
        self._running: Counter[Hashable] = Counter()
        self._threads = 0
        self._idle = 0
        """Those that wait and were not called yet."""
        self._is_closed = False

    def submit(self, source: Hashable, job: Callable[[], int]) -> Future[int]:
        """Call `job` in a thread when it is the source's turn. The future may be cancelled until it runs."""
        future: Future[int] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the threads were closed")
            self._waiting.setdefault(source, deque()).append((future, job))
            if self._idle:
                self._idle -= 1
                self._news.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def close(self) -> None:
        """Cancel what waits; what runs goes on, and is not waited for."""
        with self._lock:
            self._is_closed = True
            waiting = [future for jobs in self._waiting.values() for future, _ in jobs]
            self._waiting.clear()
            self._news.notify_all()
        for future in waiting:
            future.cancel()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            source, future, job = taken
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            del future, job
            self._leave(source)

    def _take(self) -> tuple[Hashable, Future[int], Callable[[], int]] | None:
        """The next job, when there is one that may run; None when all is over."""
        with self._lock:
            while not self._is_closed:
                source = next((each for each in self._waiting if self._running[each] < self._share), None)
                if source is not None:
                    jobs = self._waiting.pop(source)
                    future, job = jobs.popleft()
                    if jobs:
                        self._waiting[source] = jobs
                    self._running[source] += 1
                    return source, future, job
                self._idle += 1
                self._news.wait()
            return None

    def _leave(self, source: Hashable) -> None:
        with self._lock:
            self._running[source] -= 1
            if not self._running[source]:
                del self._running[source]
