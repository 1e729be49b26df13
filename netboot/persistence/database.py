"""The database: engine, transactions, and the thread that its slow work runs on.

SQLite by default (write-ahead log, every commit on the disk); any URL that SQLAlchemy takes works.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from netboot.errors import ServiceError
from netboot.persistence.database_check import check_database
from netboot.persistence.migrations import bring_up_to_date
from netboot.persistence.private import make_private

BUSY_TIMEOUT_S = 10.0

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Database:
    """Transactions on one database. Thread-safe. `close()` when done."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._thread = ThreadPoolExecutor(1, "database")

    def create(self) -> None:
        """Make or renew the tables (see migrations.py). Raises ServiceError for a database of a newer Roomcast."""
        try:
            with self._engine.begin() as connection:
                bring_up_to_date(connection)
        except (OperationalError, DatabaseError) as error:
            raise ServiceError(
                f"{self._engine.url.database}: {error.orig}; check the file and its directory"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end, undone by an exception. Raises ServiceError, as `reading` does."""
        with (
            self._telling(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view; does not wait for a writer. Nothing may be changed in it."""
        with self._telling(), Session(self._engine.execution_options(reading=True)) as session:
            yield session

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """An error of the database as one line for a person."""
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or type(error).__name__
            raise ServiceError(
                f"{self._engine.url.database}: {cause}; check the file, its directory and the room on its disk"
            ) from error

    async def run(self, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Call `function` on the database's thread: commits wait for the disk, the event loop does not.

        A call that is cancelled while it waits may still have been done.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._engine.dispose()


def open_database(path: Path, *, was_used: bool = False) -> Database:
    """The SQLite database at `path`, made when missing. Raises ServiceError for a damaged one, which stays as it is.

    `was_used`: there were data once, so an empty file is a damaged one.
    """
    try:
        make_private(path.parent)
        check_database(path, was_used=was_used)
        # SQLite gives the write-ahead log the mode of its database.
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as error:
        raise ServiceError(f"{path.parent}: {error.strerror}; name a data directory you may write: --data") from error
    database = Database(f"sqlite:///{path}")
    database.create()
    return database


def _set_up_sqlite(connection: Any, record: Any) -> None:
    # sqlite3's own transaction handling begins late and lets two writers meet: we begin ourselves, see _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")
