"""The leases of an appliance while it runs: the table that its interfaces share, their clock, their way to the disk."""

from pathlib import Path

from netboot.dhcp.leases import LeaseTable
from netboot.persistence.database import Database
from netboot.persistence.earlier_leases import drop_earlier_leases, read_earlier_leases
from netboot.persistence.lease_file import LeaseFile, open_lease_file
from netboot.persistence.lease_journal import LeaseJournal
from netboot.services.lease_clock import LeaseClock


class KeptLeases:
    """What a lease file held, and where its changes go. `close()` when done: the journal may run until then."""

    def __init__(self, file: LeaseFile) -> None:
        self.table = LeaseTable(file.load())
        self.clock = LeaseClock(file.reading)
        self.journal = LeaseJournal(file, self.clock.read)

    def close(self) -> None:
        self.journal.close()


def open_leases(path: Path, database: Database) -> KeptLeases:
    """The leases at `path`; at the very first start those that the database of an older Roomcast held.

    Raises ServiceError for a damaged file that has no good copy.
    """
    kept = KeptLeases(open_lease_file(path, earlier=read_earlier_leases(database), clock=LeaseClock().read))
    try:
        drop_earlier_leases(database)
    except BaseException:
        kept.close()
        raise
    return kept
