"""The leases as they are shown: each with the machine that holds it."""

from collections.abc import Callable
from dataclasses import dataclass

from netboot.dhcp.leases import LeaseRepository
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository


@dataclass(frozen=True, slots=True)
class LeaseView:
    """The record of one address."""

    address: str
    mac: str
    machine: str
    """Its name; empty when it has never registered."""
    hostname: str
    """As the client named itself."""
    state: str
    """bound, expired, or declined: found in use by another, and given to nobody."""
    remaining_s: float
    """Until it expires, or nobody is kept from it any more; 0 when that is past."""


class LeaseList:
    """Reads; changes nothing."""

    def __init__(
        self, leases: LeaseRepository, clock: Callable[[], float], database: Database, machines: MachineRepository
    ) -> None:
        """`clock`: the one that the leases expire by."""
        self._leases = leases
        self._clock = clock
        self._database = database
        self._machines = machines

    async def all(self) -> list[LeaseView]:
        """Every record, by address."""
        machines = await self._database.run(self._machines.all)
        names = {nic.mac: machine.name for machine in machines for nic in machine.inventory.nics}
        now = self._clock()
        return [
            LeaseView(
                address=str(lease.address),
                mac=lease.mac,
                machine=names.get(lease.mac, ""),
                hostname=lease.hostname,
                state=lease.state.value if lease.is_active(now) else "expired",
                remaining_s=round(max(0.0, lease.expires_s - now), 1),
            )
            for lease in sorted(self._leases.all(), key=lambda lease: lease.address)
        ]
