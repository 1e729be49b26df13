"""Boots in a real SQLite file: written in batches, found again, and never more than was agreed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dhcp_builders import MAC, OTHER_MAC
from inventories import an_inventory

from netboot.bootlog.events import Entry, Exchange, Fetch, FetchState
from netboot.bootlog.timeline import BootRecord
from netboot.persistence.boot_log import BootRepository
from netboot.persistence.database import Database, open_database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.schema import BootRow

ASKED = Entry(1, 1.0, Exchange("DISCOVER", is_firmware=True, arch=0, answer="OFFER"), 3, 9.0)
FETCHED = Entry(2, 10.0, Fetch("tftp", "bios/core.0", FetchState.DONE, 5, 5), 1, 10.0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "roomcast.db")
    yield database
    database.close()


def a_boot(started_s: float, mac: str = MAC, *entries: Entry) -> BootRecord:
    return BootRecord(mac, started_s, "pc-01", "10.77.0.100", entries or (ASKED,))


def test_boot_is_found_by_any_mac_of_its_machine_and_equal(database: Database) -> None:
    repository = BootRepository(database)
    late, early = a_boot(200.0, OTHER_MAC, ASKED, FETCHED), a_boot(100.5)
    repository.save([late, early])
    assert repository.boots({MAC, OTHER_MAC}) == [early, late]
    assert repository.boots({MAC}) == [early]
    assert repository.boots(set()) == []


def test_boot_that_went_on_takes_its_own_place(database: Database) -> None:
    repository = BootRepository(database)
    repository.save([a_boot(100.0)])
    repository.save([a_boot(100.0, MAC, ASKED, FETCHED)])
    assert repository.boots({MAC}) == [a_boot(100.0, MAC, ASKED, FETCHED)]


def test_oldest_boots_of_a_machine_go(database: Database) -> None:
    repository = BootRepository(database, boots_of_a_machine=3)
    repository.save([a_boot(float(n)) for n in range(1, 6)] + [a_boot(1.0, OTHER_MAC)])
    assert [boot.started_s for boot in repository.boots({MAC})] == [3.0, 4.0, 5.0]
    assert len(repository.boots({OTHER_MAC})) == 1


def test_made_up_machines_go_before_those_that_booted(database: Database) -> None:
    repository = BootRepository(database, most_boots=10)
    repository.save([a_boot(1.0, MAC, ASKED, FETCHED)])
    for number in range(30):
        repository.save([a_boot(100.0 + number, f"02:00:00:00:00:{number:02x}")])
    with database.reading() as session:
        assert session.query(BootRow).count() == 10
    assert len(repository.boots({MAC})) == 1
    assert len(repository.boots({"02:00:00:00:00:1d"})) == 1, "the latest stay"


def test_boot_mac_is_the_one_that_the_agent_told(database: Database) -> None:
    machine, _ = MachineRepository(database).register(an_inventory(OTHER_MAC), "digest", 5.0)
    assert BootRepository(database).boot_macs({machine.id, 999}) == {machine.id: OTHER_MAC}


def test_damaged_document_hides_no_other_boot(database: Database) -> None:
    repository = BootRepository(database)
    repository.save([a_boot(1.0), a_boot(2.0)])
    with database.transaction() as session:
        session.query(BootRow).filter(BootRow.started_ms == 1000).update({"document": '{"mac": 3'})
    assert [boot.started_s for boot in repository.boots({MAC})] == [2.0]


def test_last_boot_of_each_machine_is_found_the_latest_first(database: Database) -> None:
    repository = BootRepository(database)
    repository.save([a_boot(1.0), a_boot(3.0), a_boot(2.0, OTHER_MAC), a_boot(9.0, "02:00:00:00:00:01")])
    assert [boot.started_s for boot in repository.latest(10)] == [9.0, 3.0, 2.0]
    assert [boot.started_s for boot in repository.latest(2)] == [9.0, 3.0]
    assert [boot.started_s for boot in repository.boots({MAC}, 1)] == [3.0]
