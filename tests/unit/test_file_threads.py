"""Threads that wait for disks, and who has to wait for them."""

import subprocess
import sys
import threading

from netboot.services.file_threads import FileThreads

WAIT_S = 20


class Work:
    """Jobs that go on until they are let go, and what was done so far."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.done: list[str] = []

    def waits(self) -> int:
        assert self.let_go.wait(WAIT_S)
        return 0

    def notes(self, word: str) -> int:
        self.done.append(word)
        return len(self.done)


def test_a_source_that_holds_its_share_waits_and_the_others_go_on() -> None:
    threads, work = FileThreads(4, 2, "test"), Work()
    slow = [threads.submit("a", work.waits) for _ in range(6)]
    assert threads.submit("b", lambda: work.notes("b")).result(WAIT_S) == 1
    assert threads.submit("c", lambda: work.notes("c")).result(WAIT_S) == 2
    assert sum(future.running() for future in slow) == 2
    work.let_go.set()
    assert [future.result(WAIT_S) for future in slow] == [0] * 6
    threads.close()


def test_sources_take_turns() -> None:
    threads, work = FileThreads(1, 1, "test"), Work()
    first = threads.submit("x", work.waits)
    later = [threads.submit(word[0], lambda word=word: work.notes(word)) for word in ("a1", "a2", "a3", "b1", "c1")]
    work.let_go.set()
    assert first.result(WAIT_S) == 0
    for future in later:
        future.result(WAIT_S)
    assert work.done == ["a1", "b1", "c1", "a2", "a3"]
    threads.close()


def test_jobs_that_come_at_once_do_not_wait_for_one_thread_that_was_called() -> None:
    threads, work = FileThreads(4, 4, "test"), Work()
    for _ in range(200):
        assert threads.submit("a", lambda: 1).result(WAIT_S) == 1
        blocked = threads.submit("a", work.waits)
        assert threads.submit("b", lambda: 2).result(WAIT_S) == 2
        work.let_go.set()
        assert blocked.result(WAIT_S) == 0
        work.let_go.clear()
    threads.close()


def test_what_goes_wrong_is_the_jobs_own_and_the_thread_goes_on() -> None:
    threads = FileThreads(1, 1, "test")

    def fails() -> int:
        raise OSError("the disk broke")

    assert str(threads.submit("a", fails).exception(WAIT_S)) == "the disk broke"
    assert threads.submit("a", lambda: 7).result(WAIT_S) == 7
    threads.close()


def test_closing_cancels_what_waits_and_leaves_what_runs() -> None:
    threads, work = FileThreads(1, 1, "test"), Work()
    runs = threads.submit("a", work.waits)
    while not runs.running():
        pass
    waits = threads.submit("a", work.waits)
    threads.close()
    assert waits.cancelled() and not runs.done()
    work.let_go.set()
    assert runs.result(WAIT_S) == 0


def test_a_program_ends_though_a_thread_waits_for_a_disk_for_ever() -> None:
    program = (
        "import threading\n"
        "from netboot.services.file_threads import FileThreads\n"
        "threads = FileThreads(2, 1, 'test')\n"
        "stuck = threads.submit('a', lambda: threading.Event().wait() and 0)\n"
        "while not stuck.running(): pass\n"
        "threads.close()\n"
        "print('ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert done.stdout == "ended\n"
