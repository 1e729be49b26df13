"""DHCP leases in the database: the LeaseRepository of netboot/dhcp/leases.py.

The DHCP service calls it from the event loop: each call is one small transaction, on the disk when it returns.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address

from sqlalchemy import delete, select

from netboot.dhcp.leases import Lease, LeaseState
from netboot.persistence.database import Database
from netboot.persistence.schema import LeaseRow


class SqlLeases:
    """Keeps leases over restarts of the appliance."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_by_mac(self, mac: str) -> Lease | None:
        bound = select(LeaseRow).where(LeaseRow.mac == mac, LeaseRow.state == LeaseState.BOUND)
        with self._database.reading() as session:
            row = session.scalars(bound).first()
            return _lease(row) if row else None

    def get_by_address(self, address: IPv4Address) -> Lease | None:
        with self._database.reading() as session:
            row = session.get(LeaseRow, str(address))
            return _lease(row) if row else None

    def save(self, lease: Lease) -> None:
        address = str(lease.address)
        with self._database.transaction() as session:
            if lease.state is LeaseState.BOUND:
                earlier = (LeaseRow.mac == lease.mac, LeaseRow.state == LeaseState.BOUND, LeaseRow.address != address)
                session.execute(delete(LeaseRow).where(*earlier))
            session.merge(
                LeaseRow(
                    address=address,
                    mac=lease.mac,
                    expires_s=lease.expires_s,
                    state=lease.state.value,
                    hostname=lease.hostname[:63],
                )
            )

    def release(self, address: IPv4Address) -> None:
        with self._database.transaction() as session:
            session.execute(delete(LeaseRow).where(LeaseRow.address == str(address)))

    def all(self) -> Sequence[Lease]:
        with self._database.reading() as session:
            return [_lease(row) for row in session.scalars(select(LeaseRow))]


def _lease(row: LeaseRow) -> Lease:
    return Lease(row.mac, IPv4Address(row.address), row.expires_s, LeaseState(row.state), row.hostname)
