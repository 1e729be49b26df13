"""An older Roomcast's database becomes today's, whole or not at all."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from netboot.errors import ServiceError
from netboot.persistence import migrations
from netboot.persistence.database import open_database
from netboot.persistence.machines import MachineRepository
from netboot.services.leases import open_leases

DATA = Path(__file__).parents[1] / "data"


def a_database_of_version_1(path: Path) -> Path:
    """As the first version of Roomcast left it: two machines, a group, a lease, an event."""
    with sqlite3.connect(path) as raw:
        raw.executescript((DATA / "schema-1.sql").read_text())
    raw.close()
    return path


def tables_of(path: Path) -> dict[str, Any]:
    """Every table's columns (type, NOT NULL, key), foreign keys and indexes."""
    found: dict[str, Any] = {}
    raw = sqlite3.connect(path)
    for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = {(row[1], row[2], row[3], row[5]) for row in raw.execute(f"PRAGMA table_info({name})")}
        keys = {(row[2], row[3], row[4], row[6]) for row in raw.execute(f"PRAGMA foreign_key_list({name})")}
        indexes = set()
        for row in raw.execute(f"PRAGMA index_list({name})").fetchall():
            parts = tuple(part[2] for part in raw.execute(f"PRAGMA index_info({row[1]})"))
            indexes.add((row[1] if row[3] == "c" else row[3], row[2], parts))
        found[name] = (columns, keys, indexes)
    raw.close()
    return found


def rows_of(path: Path, query: str) -> list[Any]:
    raw = sqlite3.connect(path)
    rows = raw.execute(query).fetchall()
    raw.close()
    return rows


def test_database_of_version_1_gets_the_tables_of_a_new_one_and_keeps_its_rows(tmp_path: Path) -> None:
    old = a_database_of_version_1(tmp_path / "old.db")
    database = open_database(old)
    machines = MachineRepository(database)
    assert [(m.name, m.groups) for m in machines.all()] == [("pc-000002", ()), ("pc-01", ("room-1",))]
    assert machines.token_digest(machines.find("pc-01").id) == "d1"
    open_leases(tmp_path / "leases.db", database).close()
    database.close()
    open_database(tmp_path / "new.db").close()
    assert tables_of(old) == tables_of(tmp_path / "new.db")


def test_leases_of_an_older_version_go_to_the_lease_file_once(tmp_path: Path) -> None:
    database = open_database(a_database_of_version_1(tmp_path / "old.db"))
    ((mac, address, expires_s),) = rows_of(tmp_path / "old.db", "SELECT mac, address, expires_s FROM lease")
    kept = open_leases(tmp_path / "leases.db", database)
    (lease,) = kept.table.all()
    assert (lease.mac, str(lease.address), lease.expires_s) == (mac, address, expires_s)
    kept.close()
    assert rows_of(tmp_path / "old.db", "SELECT name FROM sqlite_master WHERE name = 'lease'") == []
    again = open_leases(tmp_path / "leases.db", database)
    assert again.table.all() == (lease,)
    again.close()
    database.close()


def test_lease_file_that_cannot_be_used_leaves_the_leases_of_an_older_version_where_they_are(tmp_path: Path) -> None:
    database = open_database(a_database_of_version_1(tmp_path / "old.db"))
    (tmp_path / "leases.db").write_bytes(b"not a lease file" * 100)
    with pytest.raises(ServiceError, match="roomcast lease recover"):
        open_leases(tmp_path / "leases.db", database)
    database.close()
    assert len(rows_of(tmp_path / "old.db", "SELECT * FROM lease")) == 1


def test_step_that_fails_leaves_the_old_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = a_database_of_version_1(tmp_path / "old.db")
    before = tables_of(old)

    def power_cut(connection: Connection) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, power_cut))
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", 1 + len(migrations.STEPS))
    with pytest.raises(KeyboardInterrupt):
        open_database(old)
    assert tables_of(old) == before
    monkeypatch.undo()
    open_database(old).close()
    assert tables_of(old) != before


def test_database_of_today_is_opened_again_as_it_is(tmp_path: Path) -> None:
    open_database(tmp_path / "new.db").close()
    before = tables_of(tmp_path / "new.db")
    open_database(tmp_path / "new.db").close()
    assert tables_of(tmp_path / "new.db") == before
