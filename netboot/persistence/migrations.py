"""From the tables of an older Roomcast to today's: one step a version, each in words of its own.

A step never uses schema.py, which tells today's tables: what a step made once must stay what it made. All steps of one
start run in one transaction: a database is of the old version or of today's, whenever the power goes.
"""

from collections.abc import Callable

from sqlalchemy import Connection, insert, inspect, select, text, update

from netboot.errors import ServiceError
from netboot.persistence.schema import Base, SchemaRow

Step = Callable[[Connection], None]


def _add_ways_home(connection: Connection) -> None:
    """How a machine goes from the network boot to its disk: an administrator's word, and what worked on its model."""
    connection.execute(text("ALTER TABLE machine ADD COLUMN boot_way VARCHAR(16) DEFAULT 'auto' NOT NULL"))
    connection.execute(
        text(
            "CREATE TABLE way_home (manufacturer VARCHAR(256) NOT NULL, product VARCHAR(256) NOT NULL,"
            " firmware VARCHAR(8) NOT NULL, way VARCHAR(16) NOT NULL, worked INTEGER NOT NULL, silent INTEGER NOT NULL,"
            " failed INTEGER NOT NULL, failed_in_a_row INTEGER NOT NULL, last_s FLOAT NOT NULL,"
            " PRIMARY KEY (manufacturer, product, firmware, way))"
        )
    )


def _add_boots(connection: Connection) -> None:
    """The boot log: the last boots of each machine."""
    connection.execute(
        text(
            "CREATE TABLE boot (mac VARCHAR(17) NOT NULL, started_ms BIGINT NOT NULL, phase INTEGER NOT NULL,"
            " document TEXT NOT NULL, PRIMARY KEY (mac, started_ms))"
        )
    )
    connection.execute(text("CREATE INDEX boot_by_worth ON boot (phase, started_ms)"))


def _add_slow_policy(connection: Connection) -> None:
    """What a session does with machines that are slower than the others."""
    connection.execute(text("ALTER TABLE cast_session ADD COLUMN slow VARCHAR(16) DEFAULT 'demote' NOT NULL"))
    connection.execute(text("ALTER TABLE cast_session ADD COLUMN floor_bps BIGINT DEFAULT 0 NOT NULL"))


def _add_unicast(connection: Connection) -> None:
    """Sessions that cast nothing."""
    connection.execute(text("ALTER TABLE cast_session ADD COLUMN unicast BOOLEAN DEFAULT false NOT NULL"))


def _add_interface(connection: Connection) -> None:
    """Where a session is sent, so that it goes on there."""
    connection.execute(text("ALTER TABLE cast_session ADD COLUMN interface VARCHAR(15) DEFAULT '' NOT NULL"))


def _widen_group(connection: Connection) -> None:
    """Groups of IPv6. By a new column, as SQLite changes no type."""
    connection.execute(text("ALTER TABLE cast_session ADD COLUMN wide_group VARCHAR(39) DEFAULT '' NOT NULL"))
    connection.execute(text("UPDATE cast_session SET wide_group = group_address"))
    connection.execute(text("ALTER TABLE cast_session DROP COLUMN group_address"))
    connection.execute(text("ALTER TABLE cast_session RENAME COLUMN wide_group TO group_address"))


STEPS: tuple[Step, ...] = (_add_ways_home, _add_boots, _add_slow_policy, _add_unicast, _add_interface, _widen_group)
"""The first leads from version 1 to version 2. Append; never change one that was released."""

SCHEMA_VERSION = 1 + len(STEPS)


def bring_up_to_date(connection: Connection) -> None:
    """Make the tables of an empty database, or step an older one up to today's.

    Call inside one transaction. Raises ServiceError for a database of a newer Roomcast.
    """
    version = None
    if inspect(connection).has_table(SchemaRow.__tablename__):
        version = connection.scalar(select(SchemaRow.version))
    if version is None:
        Base.metadata.create_all(connection)
        connection.execute(insert(SchemaRow).values(version=SCHEMA_VERSION))
        return
    if version > SCHEMA_VERSION:
        raise ServiceError(
            f"the database is of a newer Roomcast (schema {version}, this one knows {SCHEMA_VERSION}): "
            "update Roomcast, or name another data directory with --data"
        )
    if version < SCHEMA_VERSION:
        for step in STEPS[version - 1 :]:
            step(connection)
        connection.execute(update(SchemaRow).values(version=SCHEMA_VERSION))
