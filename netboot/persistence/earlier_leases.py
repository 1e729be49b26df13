"""The leases of a Roomcast that kept them in the database: read once, for the lease file that takes their place."""

from ipaddress import IPv4Address

from sqlalchemy import inspect, text

from netboot.dhcp.leases import Lease, LeaseState
from netboot.persistence.database import Database

_TABLE = "lease"


def read_earlier_leases(database: Database) -> list[Lease]:
    """None, when the database never held any. They expire by the wall clock. Raises ServiceError."""
    with database.reading() as session:
        if not inspect(session.connection()).has_table(_TABLE):
            return []
        rows = session.execute(text(f"SELECT mac, address, expires_s, state, hostname FROM {_TABLE}")).all()
    return [
        Lease(row.mac, IPv4Address(row.address), row.expires_s, LeaseState(row.state), row.hostname) for row in rows
    ]


def drop_earlier_leases(database: Database) -> None:
    """Call when the lease file is on the disk. Raises ServiceError."""
    with database.transaction() as session:
        session.execute(text(f"DROP TABLE IF EXISTS {_TABLE}"))
