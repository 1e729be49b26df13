"""Leases as values, and what the DHCP server asks of whoever keeps them. Pure.

Times are seconds of the clock whose readings the caller passes as `now`: the core compares, it never asks what time it
is. A lease that has expired stays in the repository: its machine gets the same address again while nobody else took it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Protocol


class LeaseState(StrEnum):
    """What the record of an address says."""

    BOUND = "bound"
    """Given to the machine until `expires_s`."""
    DECLINED = "declined"
    """The machine found it in use by another: nobody gets it until `expires_s` (RFC 2131, section 4.3.3)."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One address and its holder. There is at most one record an address, and one BOUND record a MAC."""

    mac: str
    """Lower case, colons."""
    address: IPv4Address
    expires_s: float
    state: LeaseState = LeaseState.BOUND
    hostname: str = ""
    """As the client named itself in option 12: text of a stranger, at most 63 characters."""
    client_id: bytes = b""
    """Option 61 as the client sent it last: it tells the reservations apart, never the leases."""

    def is_active(self, now: float) -> bool:
        """Whether the address must not be given to another machine."""
        return now < self.expires_s


class LeaseRepository(Protocol):
    """Keeps leases. An ACK is sent after `save` returned, so `save` returns when the lease is durable."""

    def get_by_mac(self, mac: str) -> Lease | None:
        """The BOUND lease of a machine, expired or not."""

    def get_by_address(self, address: IPv4Address) -> Lease | None:
        """The record of an address, in any state, expired or not."""

    def save(self, lease: Lease) -> None:
        """Insert, or replace the record of the same address. A BOUND lease also replaces the MAC's earlier one."""

    def release(self, address: IPv4Address) -> None:
        """Remove the record of an address; nothing happens when there is none."""

    def all(self) -> Sequence[Lease]:
        """Every record, in any state, in no stated order."""


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """What became of the record of one address."""

    address: IPv4Address
    lease: Lease | None
    """None: there is no record any more."""


class LeaseTable:
    """Every lease, in memory: the authority while the appliance runs. Whoever keeps leases takes the changes from it.

    Written by one thread; reading by MAC or address is safe from any.
    """

    def __init__(self, leases: Iterable[Lease] = ()) -> None:
        self._by_address: dict[IPv4Address, Lease] = {}
        self._address_of: dict[str, IPv4Address] = {}
        self._changes: dict[IPv4Address, Lease | None] = {}
        for lease in leases:
            self.save(lease)
        self._changes.clear()

    def get_by_mac(self, mac: str) -> Lease | None:
        """The BOUND lease of a machine, expired or not."""
        address = self._address_of.get(mac)
        return None if address is None else self._by_address.get(address)

    def get_by_address(self, address: IPv4Address) -> Lease | None:
        """The record of an address, in any state, expired or not."""
        return self._by_address.get(address)

    def save(self, lease: Lease) -> None:
        """Insert, or replace the record of the same address. A BOUND lease also replaces the MAC's earlier one."""
        self._forget_holder(lease.address)
        if lease.state is LeaseState.BOUND:
            earlier = self._address_of.get(lease.mac)
            if earlier is not None:
                self.release(earlier)
            self._address_of[lease.mac] = lease.address
        self._by_address[lease.address] = lease
        self._note(lease.address, lease)

    def release(self, address: IPv4Address) -> None:
        """Remove the record of an address; nothing happens when there is none."""
        self._forget_holder(address)
        if self._by_address.pop(address, None) is not None:
            self._note(address, None)

    def all(self) -> Sequence[Lease]:
        """Every record, in any state, in no stated order."""
        return tuple(self._by_address.values())

    def take_changes(self) -> tuple[LeaseChange, ...]:
        """What changed since the last call, in order: of each address its last change alone."""
        if not self._changes:
            return ()
        changes = tuple(LeaseChange(address, lease) for address, lease in self._changes.items())
        self._changes.clear()
        return changes

    def _forget_holder(self, address: IPv4Address) -> None:
        lease = self._by_address.get(address)
        if lease is not None and self._address_of.get(lease.mac) == address:
            del self._address_of[lease.mac]

    def _note(self, address: IPv4Address, lease: Lease | None) -> None:
        self._changes.pop(address, None)  # so that the order is that of the last changes
        self._changes[address] = lease


class GivenLeases:
    """Who has which address, as far as this appliance gives the addresses: beside another server it cannot tell."""

    def __init__(
        self, leases: LeaseRepository, gives: Callable[[IPv4Address], bool], clock: Callable[[], float]
    ) -> None:
        """`clock`: the one that the leases expire by."""
        self._leases = leases
        self._clock = clock
        self.gives = gives
        """Whether the addresses there are this appliance's to give."""

    def get_by_address(self, address: IPv4Address) -> Lease | None:
        """The lease that a machine has or had of it; who declined it never was there."""
        lease = self._leases.get_by_address(address) if self.gives(address) else None
        return lease if lease is not None and lease.state is LeaseState.BOUND else None

    def holder(self, address: IPv4Address) -> str | None:
        """The MAC that has a lease of the address at this moment."""
        lease = self.get_by_address(address)
        return lease.mac if lease is not None and lease.is_active(self._clock()) else None

    def address_of(self, mac: str) -> IPv4Address | None:
        """The address that this machine has a lease of at this moment."""
        lease = self._leases.get_by_mac(mac)
        is_given = lease is not None and self.gives(lease.address) and lease.is_active(self._clock())
        return lease.address if lease is not None and is_given else None
