"""Whether the database is whole, before anything of it is used: a damaged one is refused, never begun anew."""

import sqlite3
from contextlib import closing
from pathlib import Path

from netboot.errors import ServiceError
from netboot.persistence.database_recovery import recovered_of
from netboot.persistence.replacing import put_aside, put_in_place
from netboot.persistence.write_ahead_log import lost_commits

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY = 0xFF
"""An extended result code's part that tells the kind of error."""
_BUSY_TIMEOUT_S = 10.0


def check_database(path: Path, *, was_used: bool) -> None:
    """Raises ServiceError, with what to do, for a damaged file. `was_used`: an empty one has lost what it held.

    A recovery that the power cut into is brought to its end.
    """
    if not path.exists() and recovered_of(path).exists():
        put_aside(path)
        put_in_place(recovered_of(path), path)
    write_ahead_log = path.with_name(f"{path.name}-wal")
    if not path.exists() or path.stat().st_size == 0:
        has_log = write_ahead_log.exists() and write_ahead_log.stat().st_size > 0
        if has_log or (path.exists() and was_used):
            what = "it is empty" if path.exists() else "it is missing, its log is there"
            raise ServiceError(f"{_named(path, what)}; or {_begin_anew(path)}")
        return
    if lost := lost_commits(write_ahead_log):
        raise ServiceError(_refusal(path, lost))
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
            if found == ["ok"]:
                # What a power cut left behind the last whole commit must not look like damage later.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & _PRIMARY not in _DAMAGE:
            raise ServiceError(f"{path}: {error}; check the file, its directory and the room on its disk") from error
        raise ServiceError(_refusal(path, str(error))) from error
    if found != ["ok"]:
        raise ServiceError(_refusal(path, found[0].splitlines()[-1]))


def _refusal(path: Path, what: str) -> str:
    return (
        f"{_named(path, what)}; or keep what can be read of it: `roomcast database recover --data {path.parent}`; "
        f"or {_begin_anew(path)}"
    )


def _named(path: Path, what: str) -> str:
    return f"the database {path} is damaged ({what}) and is left as it is. Bring it back from a backup"


def _begin_anew(path: Path) -> str:
    return f"begin without machines, groups and sessions (images and leases stay): `rm -f {path}*`"
