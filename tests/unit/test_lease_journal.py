"""Group commit: who waits is told when the disk has it, and what the disk refused is tried again."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from lease_builders import FIRST, Clocks, a_lease, open_leases

from netboot.dhcp.leases import LeaseChange
from netboot.persistence import lease_journal
from netboot.persistence.lease_file import LeaseFile, backup_of
from netboot.persistence.lease_journal import LeaseJournal
from netboot.services.lease_clock import LeaseClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases.db"


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def file(path: Path, clocks: Clocks) -> LeaseFile:
    return open_leases(path, clocks)


@pytest.fixture
def journal(file: LeaseFile, clocks: Clocks) -> Iterator[LeaseJournal]:
    with LeaseJournal(file, LeaseClock(file.reading, clocks.kernel()).read) as journal:
        yield journal


def change(number: int) -> LeaseChange:
    lease = a_lease(number)
    return LeaseChange(lease.address, lease)


def on_disk(path: Path) -> list[str]:
    """As another process sees it, which asks while the journal runs."""
    with sqlite3.connect(path) as connection:
        addresses = [row[0] for row in connection.execute("SELECT address FROM lease ORDER BY address")]
    connection.close()
    return addresses


def names(*numbers: int) -> list[str]:
    return [str(FIRST + number) for number in numbers]


async def committed(journal: LeaseJournal, *changes: LeaseChange) -> bool:
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    journal.commit(changes, told.set_result)
    async with asyncio.timeout(20):
        return await told


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_who_waits_is_told_when_it_is_on_the_disk(journal: LeaseJournal, path: Path) -> None:
    async def test() -> None:
        for number in range(5):
            assert await committed(journal, change(number))
            assert on_disk(path) == names(*range(number + 1))
        assert await committed(journal, LeaseChange(FIRST + 2, None))
        assert on_disk(path) == names(0, 1, 3, 4)

    run(test)


def test_what_comes_while_a_commit_runs_shares_the_next_one(journal: LeaseJournal, path: Path) -> None:
    async def test() -> None:
        assert await committed(journal, change(0))
        before = journal.commits
        busy = sqlite3.connect(path, isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")  # the first commit waits for it, and the others for the first
        told: list[int] = []
        everyone = asyncio.Event()

        def tell(number: int, ok: bool) -> None:
            assert ok
            told.append(number)

        for number in range(1, 101):
            journal.commit([change(number)], partial(tell, number))
        journal.commit([], lambda ok: everyone.set())
        await asyncio.sleep(0)
        assert told == []
        busy.execute("ROLLBACK")
        busy.close()
        async with asyncio.timeout(20):
            await everyone.wait()
        assert told == list(range(1, 101))
        assert journal.commits - before <= 2
        assert len(on_disk(path)) == 101

    run(test)


def test_nothing_to_write_is_told_at_once_but_not_before_what_is_under_way(journal: LeaseJournal) -> None:
    async def test() -> None:
        assert await committed(journal, change(0))
        told: list[str] = []
        journal.commit([], lambda ok: told.append("nothing"))
        assert told == ["nothing"]
        journal.commit([change(1)], lambda ok: told.append("change"))
        journal.commit([], lambda ok: told.append("nothing again"))
        assert told == ["nothing"]
        assert await committed(journal)
        assert told == ["nothing", "change", "nothing again"]

    run(test)


def test_a_refused_commit_is_told_and_comes_with_the_next(journal: LeaseJournal, file: LeaseFile, path: Path) -> None:
    async def test() -> None:
        assert await committed(journal, change(0))
        file._connection.execute("PRAGMA query_only = ON")
        with structlog.testing.capture_logs() as logs:
            assert not await committed(journal, change(1))
            assert not await committed(journal, change(2))
            assert not await committed(journal)  # an ACK that changes nothing may not leave either
            file._connection.execute("PRAGMA query_only = OFF")
            assert await committed(journal, change(3))
            await asyncio.sleep(0)
        assert on_disk(path) == names(0, 1, 2, 3)
        told = [entry for entry in logs if entry["log_level"] == "error"]
        assert len(told) == 1  # not one a packet
        assert told[0]["file"] == str(path)
        assert "df" in told[0]["todo"]
        assert journal.failures >= 3
        assert [entry["event"] for entry in logs][-1] == "leases are written again"

    run(test)


def test_a_refused_commit_is_tried_again_though_nothing_comes(
    journal: LeaseJournal, file: LeaseFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_journal, "RETRY_S", 0.01)

    async def test() -> None:
        file._connection.execute("PRAGMA query_only = ON")
        assert not await committed(journal, change(1))
        file._connection.execute("PRAGMA query_only = OFF")
        async with asyncio.timeout(20):
            while on_disk(path) != names(1):  # noqa: ASYNC110 (done by another thread)
                await asyncio.sleep(0.01)

    run(test)


def test_a_disk_that_takes_not_even_the_clock_is_not_asked_without_a_pause(
    file: LeaseFile, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_journal, "CLOCK_S", 0.0)
    monkeypatch.setattr(lease_journal, "RETRY_S", 0.05)
    file._connection.execute("PRAGMA query_only = ON")
    began_s = time.monotonic()
    with LeaseJournal(file, LeaseClock(file.reading, clocks.kernel()).read) as journal:
        while journal.failures < 4:
            time.sleep(0.001)
        assert time.monotonic() - began_s >= 3 * 0.05


def test_everything_is_written_and_copied_when_it_ends(path: Path, clocks: Clocks) -> None:
    async def test() -> None:
        file = open_leases(path, clocks)
        with LeaseJournal(file, LeaseClock(file.reading, clocks.kernel()).read) as journal:
            for number in range(50):
                journal.commit([change(number)])
        assert len(on_disk(path)) == len(on_disk(backup_of(path))) == 50
        assert not list(path.parent.glob("*-wal"))

    run(test)


def test_a_copy_is_made_from_time_to_time_and_the_clock_is_kept_when_nothing_happens(
    path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_journal, "BACKUP_S", 0.0)
    monkeypatch.setattr(lease_journal, "CLOCK_S", 0.01)
    file = open_leases(path, clocks)

    async def test() -> None:
        clock = LeaseClock(file.reading, clocks.kernel())
        with LeaseJournal(file, clock.read) as journal:
            assert await committed(journal, change(1))
            clocks.pass_s(500)
            async with asyncio.timeout(20):
                while on_disk(backup_of(path)) != names(1) or saved_boot_s() != 1500.0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    def saved_boot_s() -> float:
        with sqlite3.connect(path) as connection:
            found = connection.execute("SELECT boot_s FROM clock").fetchone()[0]
        connection.close()
        return float(found)

    run(test)
