"""The file that leases are kept in: an SQLite database of its own, `leases.db`, with a good copy beside it.

Every commit is on the disk when `write` returns (write-ahead log, synchronous=FULL). A file that is damaged is never
begun anew in silence: `open_lease_file` puts it aside and goes on from the last good copy, loudly, or refuses.
"""

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from netboot.dhcp.lease_time import ClockReading
from netboot.dhcp.leases import Lease, LeaseState
from netboot.errors import ServiceError
from netboot.persistence.private import make_private
from netboot.persistence.replacing import put_aside, put_in_place
from netboot.persistence.write_ahead_log import lost_commits

log = structlog.get_logger()

LEASE_FILE_VERSION = 1
_BUSY_TIMEOUT_S = 5.0
_CODES_OF_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # no such table, or text that is no text
    sqlite3.SQLITE_IOERR_SHORT_READ,
}
_TABLES = (
    "CREATE TABLE lease (address TEXT PRIMARY KEY, mac TEXT NOT NULL, client_id BLOB NOT NULL, expires_s REAL NOT NULL,"
    " state TEXT NOT NULL, hostname TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), boot_id TEXT NOT NULL, boot_s REAL NOT NULL,"
    " wall_s REAL NOT NULL, lease_s REAL NOT NULL, checksum INTEGER NOT NULL)",
)
_SAVE = "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM lease WHERE address = ?"
_GET_CLOCK = "SELECT boot_id, boot_s, wall_s, lease_s, checksum FROM clock"
_SET_CLOCK = "INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?, ?)"

Row = tuple[str | bytes | float | int, ...]


class DamagedError(Exception):
    """A file that does not hold what was written to it."""


class LeaseFile:
    """An open lease file. One thread at a time. `close()` when done."""

    def __init__(self, path: Path, connection: sqlite3.Connection, leases: list[Lease], reading: ClockReading) -> None:
        self.path = path
        self.reading = reading
        """The lease clock as it was saved last before the file was opened: continue from it."""
        self._connection = connection
        self._leases = leases

    def load(self) -> list[Lease]:
        """The leases that the file held when it was opened. Times are of the clock that continues `reading`."""
        return self._leases

    def write(self, changes: Mapping[IPv4Address, Lease | None], reading: ClockReading) -> None:
        """Commit the new records (None: removed) and the clock, all or nothing. Raises sqlite3.Error."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_REMOVE, [(str(address),) for address, lease in changes.items() if lease is None])
            connection.executemany(_SAVE, [_lease_row(lease) for lease in changes.values() if lease is not None])
            connection.execute(_SET_CLOCK, _clock_row(reading))
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise

    def back_up(self) -> None:
        """Replace the good copy beside the file by one of now. Raises sqlite3.Error or OSError; the old one stays."""
        _copy(self._connection, backup_of(self.path))

    def close(self) -> None:
        self._connection.close()


def backup_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.bak")


def open_lease_file(path: Path, *, earlier: Iterable[Lease] = (), clock: Callable[[], ClockReading]) -> LeaseFile:
    """Open the leases at `path`; when there never were any, begin with `earlier` at the time of `clock`.

    A damaged or missing file is replaced by its good copy, the damaged one is kept beside it; ServiceError when there
    is no good copy, or the file cannot be used at all.
    """
    try:
        make_private(path.parent)
        if not path.exists():
            if _was_there(path):
                return _restore(path, "is missing")
            _create(path, earlier, clock())
        file = _open(path)
    except DamagedError as damage:
        return _restore(path, f"is damaged ({damage})")
    except (OSError, sqlite3.Error) as error:
        raise ServiceError(
            f"{path}: {_words(error)}; check the file, its directory and the room on its disk"
        ) from error
    with suppress(OSError, sqlite3.Error):  # one that cannot be made now is tried again, and told, by the journal
        file.back_up()
    return file


def recover_leases(path: Path, now: ClockReading) -> int:
    """Make a whole file of what can still be read of a damaged one, which is kept beside it; how many leases that is.

    For when there is no good copy, and while no appliance uses the file. `now` stands for a clock that is lost.
    Raises ServiceError.
    """
    leases: dict[IPv4Address, Lease] = {}
    reading = now
    try:
        if not path.exists():
            raise ServiceError(f"{path} does not exist: there is nothing to recover")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            with suppress(sqlite3.DatabaseError):
                _refuse_newer(path, connection)
            for order in ("ASC", "DESC"):  # from both ends up to the damage
                with suppress(sqlite3.DatabaseError):
                    for row in connection.execute(f"SELECT * FROM lease ORDER BY address {order}"):
                        with suppress(DamagedError):
                            lease = _lease(row)
                            leases[lease.address] = lease
            with suppress(sqlite3.DatabaseError, DamagedError):
                for clock in connection.execute(_GET_CLOCK).fetchall():
                    reading = _reading(clock)
        if not leases:
            raise ServiceError(
                f"no lease can be read in {path}: bring it back from a backup, or begin without: rm {path}"
            )
        fresh = _whole_of(path)
        _create(fresh, leases.values(), reading)
        put_aside(path)
        put_in_place(fresh, path)
    except (OSError, sqlite3.Error) as error:
        raise ServiceError(f"{path}: {_words(error)}") from error
    return len(leases)


def _create(path: Path, leases: Iterable[Lease], reading: ClockReading) -> None:
    """By way of another name: a file called `path` is whole, whenever the power fails."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        fresh.chmod(0o600)
        connection.execute("BEGIN")
        for statement in _TABLES:
            connection.execute(statement)
        connection.executemany(_SAVE, [_lease_row(lease) for lease in leases])
        connection.execute(_SET_CLOCK, _clock_row(reading))
        connection.execute(f"PRAGMA user_version = {LEASE_FILE_VERSION}")
        connection.execute("COMMIT")
    put_in_place(fresh, path)


def _open(path: Path) -> LeaseFile:
    """DamagedError, ServiceError for a file of a newer Roomcast, OSError or sqlite3.Error when the world fails."""
    write_ahead_log = path.with_name(f"{path.name}-wal")
    if lost := lost_commits(write_ahead_log):
        raise DamagedError(lost)
    connection, leases, reading = _read(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        if write_ahead_log.exists() and write_ahead_log.stat().st_size:
            # What a power cut left behind the last whole commit must not look like damage later: begin with none.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except BaseException:
        connection.close()
        raise
    return LeaseFile(path, connection, leases, reading)


def _read(path: Path) -> tuple[sqlite3.Connection, list[Lease], ClockReading]:
    """Open and check everything that is in a file."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _refuse_newer(path, connection)
        found = [row[0] for row in connection.execute("PRAGMA quick_check")]
        if found != ["ok"]:
            raise DamagedError(str(found[0]).splitlines()[-1])
        leases = [_lease(row) for row in connection.execute("SELECT * FROM lease")]
        clocks = connection.execute(_GET_CLOCK).fetchall()
        if not clocks:
            raise DamagedError("it has no clock")
        return connection, leases, _reading(clocks[0])
    except sqlite3.Error as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) in _CODES_OF_DAMAGE:
            raise DamagedError(str(error)) from error
        raise  # locked, not to be opened, no room: the world fails, the file may be whole
    except BaseException:
        connection.close()
        raise


def _refuse_newer(path: Path, connection: sqlite3.Connection) -> None:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version > LEASE_FILE_VERSION:
        raise ServiceError(
            f"{path} is of a newer Roomcast (version {version}, this one knows {LEASE_FILE_VERSION}): "
            "update Roomcast, or name another data directory with --data"
        )


def _was_there(path: Path) -> bool:
    """Whether there were leases once: a copy, or what a repair that the power cut into left."""
    write_ahead_log = path.with_name(f"{path.name}-wal")
    if write_ahead_log.exists() or any(path.parent.glob(f"{path.name}.damaged-*")):
        return True
    return backup_of(path).exists() or _whole_of(path).exists()


def _whole_of(path: Path) -> Path:
    """What a repair puts in the file's place. The file is moved away first: until then this is where the leases are."""
    return path.with_name(f"{path.name}.whole")


def _restore(path: Path, what: str) -> LeaseFile:
    """Go on from the newest whole copy: what SQLite still reads of the file itself, or those beside it."""
    whole = _whole_of(path)
    copies: list[tuple[float, Path, sqlite3.Connection]] = []
    try:
        for source in (path, whole, backup_of(path)):
            if source.exists():
                with suppress(DamagedError):
                    connection, _, reading = _read(source)
                    copies.append((reading.lease_s, source, connection))
        if not copies:
            raise ServiceError(_advice(path, what))
        _, source, connection = max(copies, key=lambda copy: copy[0])
        _copy(connection, whole)
    except (OSError, sqlite3.Error) as error:
        raise ServiceError(f"{path} {what}, and cannot be restored: {_words(error)}") from error
    finally:
        for _, _, connection in copies:
            connection.close()
    try:
        aside = put_aside(path)
        put_in_place(whole, path)
        file = _open(path)
    except (OSError, sqlite3.Error, DamagedError) as error:
        raise ServiceError(f"{path} {what}, and cannot be restored: {_words(error)}") from error
    log.error(
        "lease file restored: addresses given out since then are unknown",
        file=str(path),
        cause=what,
        leases=len(file.load()),
        copy=source.name,
        copy_of=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(file.reading.wall_s)),
        damaged_file_kept_as=aside,
    )
    with suppress(OSError, sqlite3.Error):  # as in open_lease_file
        file.back_up()
    return file


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """An exact, whole, durable copy at `target`, which is replaced at once or not at all."""
    fresh = target.with_name(f"{target.name}.new")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as copy:
        fresh.chmod(0o600)
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # a copy is one file
    put_in_place(fresh, target)


def _advice(path: Path, what: str) -> str:
    return (
        f"the leases in {path} cannot be used: it {what}, and there is no good copy {backup_of(path).name}. "
        f"Bring it back from a backup; or keep what can be read of it: `roomcast lease recover --data {path.parent}`; "
        f"or begin without leases, so that addresses in use may be given out again: `rm -f {path}*`"
    )


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _lease_row(lease: Lease) -> Row:
    row: Row = (str(lease.address), lease.mac, lease.client_id, lease.expires_s, lease.state.value, lease.hostname)
    return (*row, _checksum(row))


def _lease(row: Row) -> Lease:
    address, mac, client_id, expires_s, state, hostname, checksum = row
    if checksum != _checksum(row[:-1]):
        raise DamagedError(f"the record of {address!r} is not as it was written")
    assert isinstance(client_id, bytes) and isinstance(expires_s, float)
    return Lease(str(mac), IPv4Address(address), expires_s, LeaseState(str(state)), str(hostname), client_id)


def _clock_row(reading: ClockReading) -> Row:
    row: Row = (reading.boot_id, reading.boot_s, reading.wall_s, reading.lease_s)
    return (*row, _checksum(row))


def _reading(row: Row) -> ClockReading:
    boot_id, boot_s, wall_s, lease_s, checksum = row
    if checksum != _checksum(row[:-1]):
        raise DamagedError("its clock is not as it was written")
    assert isinstance(boot_s, float) and isinstance(wall_s, float) and isinstance(lease_s, float)
    return ClockReading(str(boot_id), boot_s, wall_s, lease_s)


def _checksum(row: Row) -> int:
    """SQLite tells damaged pages, not damaged values."""
    return zlib.crc32(repr(row).encode())
