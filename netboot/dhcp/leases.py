"""Leases as values, and what the DHCP server asks of whoever keeps them. Pure.

Times are seconds of the clock whose readings the caller passes as `now`: the core compares, it never asks what time it
is. A lease that has expired stays in the repository: its machine gets the same address again while nobody else took it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol
from zlib import crc32


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


class MemoryLeases:
    """A repository that lasts as long as its process: for tests, and for `dhcp = "proxy"` set-ups without one."""

    def __init__(self) -> None:
        self._by_address: dict[IPv4Address, Lease] = {}
        self._address_of: dict[str, IPv4Address] = {}

    def get_by_mac(self, mac: str) -> Lease | None:
        address = self._address_of.get(mac)
        return None if address is None else self._by_address[address]

    def get_by_address(self, address: IPv4Address) -> Lease | None:
        return self._by_address.get(address)

    def save(self, lease: Lease) -> None:
        self.release(lease.address)
        if lease.state is LeaseState.BOUND:
            earlier = self._address_of.get(lease.mac)
            if earlier is not None:
                self.release(earlier)
            self._address_of[lease.mac] = lease.address
        self._by_address[lease.address] = lease

    def release(self, address: IPv4Address) -> None:
        lease = self._by_address.pop(address, None)
        if lease is not None and self._address_of.get(lease.mac) == address:
            del self._address_of[lease.mac]

    def all(self) -> Sequence[Lease]:
        return tuple(self._by_address.values())


@dataclass(frozen=True, slots=True)
class Pool:
    """The addresses that are given away, both ends included."""

    network: IPv4Network
    first: IPv4Address
    last: IPv4Address

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"pool {self.first}-{self.last} ends before it starts")
        for address in (self.first, self.last):
            if address not in self.network:
                raise ValueError(f"pool {self.first}-{self.last} is not inside {self.network}")
        if self.first <= self.network.network_address or self.last >= self.network.broadcast_address:
            raise ValueError(f"pool {self.first}-{self.last} holds the network's own or its broadcast address")

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def walk(self, mac: str) -> Iterator[IPv4Address]:
        """Every address once; the same order for the same MAC, so that a lost database does little harm."""
        size = len(self)
        start = crc32(mac.encode()) % size
        for step in range(size):
            yield self.first + (start + step) % size
