"""A damaged database is refused by name, with what to do, and left as it is."""

import asyncio
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from deployment_builders import a_bench
from inventories import an_inventory
from typer.testing import CliRunner, Result

from netboot.cli.main import build_app
from netboot.errors import ServiceError
from netboot.persistence.database import Database, open_database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.only_one import only_one_uses

MACHINES = 40
PAGE_BYTES = 4096
Damage = Callable[[Path], None]


def fill(database: Database) -> None:
    machines = MachineRepository(database)
    for number in range(MACHINES):
        machines.register(an_inventory(f"52:54:00:00:00:{number:02x}"), "digest", 1000.0 + number)


def machines_in(path: Path) -> int:
    database = open_database(path)
    try:
        return len(MachineRepository(database).all())
    finally:
        database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database = open_database(tmp_path / "roomcast.db")
    fill(database)
    database.close()
    return tmp_path / "roomcast.db"


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """As a kill leaves it: the last commits are in the log alone."""
    database = open_database(tmp_path / "killed" / "roomcast.db")
    fill(database)
    copy = tmp_path / "roomcast.db"
    for end in ("", "-wal"):
        shutil.copy(tmp_path / "killed" / f"roomcast.db{end}", f"{copy}{end}")
    database.close()
    return copy


def page_of(data: bytes, page: int) -> bytes:
    return data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]


def overwrite(page: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = random.Random(page).randbytes(PAGE_BYTES)
        path.write_bytes(data)

    return damage


DAMAGES: dict[str, Damage] = {
    "its first page": overwrite(0),
    "a page in its middle": overwrite(9),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: 7 * PAGE_BYTES]),
    "something else": lambda path: path.write_bytes(b"what is this? " * 1000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_database_is_refused_by_name_and_left_as_it_is(path: Path, damage: Damage) -> None:
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ServiceError) as refusal:
        open_database(path)
    told = str(refusal.value)
    assert (
        f"the database {path} is damaged" in told
        and f"roomcast database recover --data {path.parent}" in told
        and "backup" in told
    )
    assert path.read_bytes() == before


def recover(data: Path) -> Result:
    return CliRunner().invoke(build_app(), ["database", "recover", "--data", str(data)])


def test_the_command_that_the_refusal_names_brings_back_what_can_be_read(path: Path) -> None:
    pages = path.read_bytes()
    of_machines = [n for n in range(len(pages) // PAGE_BYTES) if b"boot_mac" in page_of(pages, n)]
    overwrite(of_machines[len(of_machines) // 2])(path)
    with pytest.raises(ServiceError, match=f"roomcast database recover --data {path.parent}"):
        open_database(path)
    told = recover(path.parent)
    assert told.exit_code == 0, told.output
    kept = machines_in(path)
    assert f"{kept} machines" in told.output
    assert MACHINES / 2 < kept < MACHINES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []


def test_rows_of_a_machine_that_is_lost_are_not_kept(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM machine WHERE id = 1")  # its interfaces and groups stay: foreign keys are off
    assert recover(path.parent).exit_code == 0
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("SELECT count(*) FROM nic").fetchall() == [(MACHINES - 1,)]


def test_nothing_is_recovered_under_a_running_appliance_or_from_nothing(path: Path) -> None:
    with only_one_uses(path.parent):
        assert "already" in str(recover(path.parent).exception)
    before = path.read_bytes()[PAGE_BYTES:]
    overwrite(0)(path)
    assert "nothing can be read of" in str(recover(path.parent).exception)
    assert path.read_bytes()[PAGE_BYTES:] == before
    path.unlink()
    assert "there is nothing to recover" in str(recover(path.parent).exception)


def test_a_recovery_that_the_power_cut_into_goes_on(crashed: Path) -> None:
    whole = crashed.with_name("roomcast.db.recovered")
    open_database(whole).close()
    crashed.rename(crashed.with_name("roomcast.db.damaged-20261124-120000"))  # its log is there still
    assert machines_in(crashed) == 0
    assert not whole.exists()


def test_a_log_that_is_damaged_in_its_middle_is_refused_until_somebody_gives_its_end_up(crashed: Path) -> None:
    log = crashed.with_name("roomcast.db-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(ServiceError, match="damaged in the middle"):
        open_database(crashed)
    assert recover(crashed.parent).exit_code == 0
    assert 0 < machines_in(crashed) < MACHINES


def test_a_log_that_a_power_cut_ended_is_no_damage_then_or_later(crashed: Path) -> None:
    log = crashed.with_name("roomcast.db-wal")
    log.write_bytes(log.read_bytes()[: -PAGE_BYTES // 2])
    kept = machines_in(crashed)
    assert MACHINES - 1 <= kept <= MACHINES
    assert machines_in(crashed) == kept


def test_a_log_whose_database_is_gone_is_not_begun_anew(crashed: Path) -> None:
    crashed.unlink()
    with pytest.raises(ServiceError, match="it is missing, its log is there"):
        open_database(crashed)
    assert not crashed.exists()


def test_an_appliance_does_not_begin_anew_with_an_emptied_database(tmp_path: Path) -> None:
    async def start() -> None:
        async with a_bench(tmp_path) as bench:
            await bench.register(an_inventory())

    asyncio.run(start())
    for end in ("-wal", "-shm"):
        (tmp_path / f"roomcast.db{end}").unlink(missing_ok=True)
    (tmp_path / "roomcast.db").write_bytes(b"")
    with pytest.raises(ServiceError, match=f"the database {tmp_path}/roomcast.db is damaged .it is empty"):
        asyncio.run(start())
    (tmp_path / "roomcast.db").unlink()  # as the refusal says
    asyncio.run(start())
