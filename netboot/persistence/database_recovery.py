"""What can still be read of a damaged database, as a whole one: the tables that it has, row by row from both ends."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from netboot.errors import ServiceError
from netboot.persistence.replacing import put_aside, put_in_place


def recovered_of(path: Path) -> Path:
    """What takes the place of a damaged database. That is moved away first: until then this is where the rows are."""
    return path.with_name(f"{path.name}.recovered")


def recover_database(path: Path) -> dict[str, int]:
    """Make a whole database of what can be read of the one at `path`, which is kept beside it; rows by table.

    While no appliance uses it. What names a row that is lost goes with it. Raises ServiceError.
    """
    fresh = path.with_name(f"{path.name}.new")
    try:
        if not path.exists() or path.stat().st_size == 0:
            raise ServiceError(f"{path} is empty or does not exist: there is nothing to recover")
        fresh.unlink(missing_ok=True)
        fresh.touch(0o600)
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as damaged,
            closing(sqlite3.connect(fresh, isolation_level=None)) as whole,
        ):
            tables = _make_tables(path, damaged, whole)
            whole.execute("BEGIN")
            for table in tables:
                _copy_rows(table, damaged, whole)
            while violations := whole.execute("PRAGMA foreign_key_check").fetchall():
                for table, row_id, _, _ in violations:
                    whole.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (row_id,))
            counts = {name: whole.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
            whole.execute("COMMIT")
        put_in_place(fresh, recovered_of(path))
        put_aside(path)
        put_in_place(recovered_of(path), path)
    except (OSError, sqlite3.Error) as error:
        raise ServiceError(f"{path} cannot be recovered: {error}; bring it back from a backup") from error
    return counts


def _make_tables(path: Path, damaged: sqlite3.Connection, whole: sqlite3.Connection) -> list[str]:
    """The tables and indexes of the damaged database; the names of the tables."""
    try:
        found = damaged.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    except sqlite3.DatabaseError as error:
        raise ServiceError(f"nothing can be read of {path} ({error}): bring it back from a backup") from error
    for _, _, statement in sorted(found, key=lambda each: each[0] != "table"):
        whole.execute(statement)
    return [name for kind, name, _ in found if kind == "table" and not name.startswith("sqlite_")]


def _copy_rows(table: str, damaged: sqlite3.Connection, whole: sqlite3.Connection) -> None:
    columns = [row[1] for row in whole.execute(f'PRAGMA table_info("{table}")')]
    named = ", ".join(f'"{column}"' for column in ("rowid", *columns))
    marks = ", ".join("?" * (len(columns) + 1))
    for order in ("ASC", "DESC"):  # from both ends up to the damage
        with suppress(sqlite3.DatabaseError):
            for row in damaged.execute(f'SELECT {named} FROM "{table}" NOT INDEXED ORDER BY rowid {order}'):
                with suppress(sqlite3.DatabaseError):  # it breaks a rule of its table: not as it was written
                    whole.execute(f'INSERT OR IGNORE INTO "{table}" ({named}) VALUES ({marks})', row)
