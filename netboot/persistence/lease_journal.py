"""The thread that brings lease changes to the disk, many in one commit: an ACK may leave when its change is there.

What arrives while a commit runs goes into the next one. A commit that fails takes no change away: all of it is in the
next, so the disk comes to say what memory says as soon as it can.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

import structlog

from netboot.dhcp.lease_time import ClockReading
from netboot.dhcp.leases import Lease, LeaseChange
from netboot.persistence.lease_file import LeaseFile

log = structlog.get_logger()

Done = Callable[[bool], None]
"""Told on the event loop whether the changes are on the disk."""

CLOCK_S = 30.0
"""So often the clock is saved when no lease changes: after a power cut lease time is behind by no more."""
BACKUP_S = 60.0
"""So often a changed file is copied: what is missing in the copy that a damaged file is replaced by."""
RETRY_S = 1.0
"""After a commit that failed, when nothing new comes."""
TELL_S = 60.0
"""A failure that lasts is logged so often."""


class LeaseJournal:
    """Owns a lease file, and its thread from `start` (or `with`) to `close`."""

    def __init__(self, file: LeaseFile, read_clock: Callable[[], ClockReading]) -> None:
        self._file = file
        self._read_clock = read_clock
        self._wake = threading.Condition()
        self._gathered: dict[IPv4Address, Lease | None] = {}
        self._waiting: list[tuple[asyncio.AbstractEventLoop, Done]] = []
        self._is_clean = True
        """Everything that was gathered is on the disk."""
        self._is_closing = False
        self._unwritten: dict[IPv4Address, Lease | None] = {}
        """Of the thread: the batch, with what failed before."""
        self._told_s = 0.0
        self._failing_since_s: float | None = None
        self.commits = 0
        self.failures = 0
        """Commits that failed, so far."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Changes are committed from now on."""
        self._thread = threading.Thread(target=self._run, name="leases")
        self._thread.start()

    def close(self) -> None:
        """Commit what there is, and close the file."""
        if self._thread is not None:
            with self._wake:
                self._is_closing = True
                self._wake.notify()
            self._thread.join()
        self._file.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def commit(self, changes: Sequence[LeaseChange], done: Done | None = None) -> None:
        """Take changes in the order of the calls. `done(True)` when these, and all before, are on the disk; when they
        are so already, at once; `done(False)` when the disk did not take them: they are tried again all the same.

        Call it on the event loop.
        """
        with self._wake:
            if changes or not self._is_clean:
                for change in changes:
                    self._gathered[change.address] = change.lease
                if done is not None:
                    self._waiting.append((asyncio.get_running_loop(), done))
                self._is_clean = False
                self._wake.notify()
                return
        if done is not None:
            done(True)

    # The thread

    def _run(self) -> None:
        next_clock_s = time.monotonic() + CLOCK_S
        next_backup_s = time.monotonic() + BACKUP_S
        is_changed = False
        while True:
            with self._wake:
                pause_s = next_clock_s - time.monotonic()
                self._wake.wait_for(lambda: self._gathered or self._waiting or self._is_closing, max(0.0, pause_s))
                self._unwritten.update(self._gathered)
                self._gathered = {}
                waiting, self._waiting = self._waiting, []
                is_closing = self._is_closing
            is_changed = is_changed or bool(self._unwritten)
            is_durable = self._write()
            with self._wake:
                self._is_clean = is_durable and not self._gathered and not self._waiting
            _tell(waiting, is_durable)
            now_s = time.monotonic()
            next_clock_s = now_s + (CLOCK_S if is_durable else RETRY_S)
            if is_changed and (now_s >= next_backup_s or is_closing):
                is_changed = not self._back_up()
                next_backup_s = now_s + BACKUP_S
            if is_closing:
                return

    def _write(self) -> bool:
        try:
            self._file.write(self._unwritten, self._read_clock())
        except (sqlite3.Error, OSError) as error:
            self.failures += 1
            self._tell_failure(error)
            return False
        self.commits += 1
        self._unwritten = {}
        if self._failing_since_s is not None:
            lasted_s = round(time.monotonic() - self._failing_since_s, 1)
            log.info("leases are written again", file=str(self._file.path), after_s=lasted_s)
            self._failing_since_s = None
        return True

    def _tell_failure(self, error: Exception) -> None:
        now_s = time.monotonic()
        is_new = self._failing_since_s is None
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if is_new or now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            log.error(
                "leases cannot be written: no machine is given an address until they can",
                file=str(self._file.path),
                cause=str(error),
                todo="make room on its disk (`df`), check the disk (`dmesg`); a damaged file is restored at a restart",
            )

    def _back_up(self) -> bool:
        try:
            self._file.back_up()
        except (sqlite3.Error, OSError) as error:
            log.warning("no good copy of the leases could be made", file=str(self._file.path), cause=str(error))
            return False
        return True


def _tell(waiting: list[tuple[asyncio.AbstractEventLoop, Done]], is_durable: bool) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Done]] = {}
    for loop, done in waiting:
        by_loop.setdefault(loop, []).append(done)
    for loop, all_done in by_loop.items():
        try:
            loop.call_soon_threadsafe(_call, all_done, is_durable)
        except RuntimeError:  # the loop has ended: nobody waits for an answer any more
            pass


def _call(all_done: list[Done], is_durable: bool) -> None:
    for done in all_done:
        done(is_durable)
