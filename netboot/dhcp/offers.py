"""Addresses that were offered and not yet asked for, the oldest first. Pure; no step looks at more than it removes."""

from dataclasses import dataclass
from ipaddress import IPv4Address

MOST_EVICTED = 4096
"""Offers remembered that made room for others."""


@dataclass(frozen=True, slots=True)
class _Offer:
    address: IPv4Address
    until_s: float


class OpenOffers:
    """One offer a machine, one machine an address."""

    def __init__(self) -> None:
        self._by_mac: dict[str, _Offer] = {}
        """In the order of their ends: each new one is put at the end, and all last equally long."""
        self._mac_of: dict[IPv4Address, str] = {}
        self._evicted: dict[str, _Offer] = {}

    def __len__(self) -> int:
        return len(self._by_mac)

    def put(self, mac: str, address: IPv4Address, until_s: float) -> None:
        """Offer `address` in place of what was offered to this machine; whoever it was offered to before loses it."""
        self.drop(mac)
        self.withdraw(address)
        self._by_mac[mac] = _Offer(address, until_s)
        self._mac_of[address] = mac

    def address_of(self, mac: str) -> IPv4Address | None:
        """What is offered to this machine."""
        offer = self._by_mac.get(mac)
        return None if offer is None else offer.address

    def holder_of(self, address: IPv4Address, now: float) -> str | None:
        """The machine that this address is offered to still."""
        mac = self._mac_of.get(address)
        return mac if mac is not None and self._by_mac[mac].until_s > now else None

    def drop(self, mac: str) -> None:
        self._evicted.pop(mac, None)
        offer = self._by_mac.pop(mac, None)
        if offer is not None:
            del self._mac_of[offer.address]

    def withdraw(self, address: IPv4Address) -> None:
        """Drop the offer of an address, whoever has it."""
        if (mac := self._mac_of.get(address)) is not None:
            self.drop(mac)

    def evict(self, address: IPv4Address) -> None:
        """Take an offer back to make room for another. Its machine may still ask for it."""
        mac = self._mac_of.get(address)
        if mac is None:
            return
        offer = self._by_mac[mac]
        self.drop(mac)
        while len(self._evicted) >= MOST_EVICTED:
            del self._evicted[next(iter(self._evicted))]
        self._evicted[mac] = offer

    def was_evicted(self, mac: str, address: IPv4Address, now: float) -> bool:
        """Whether this address was offered to this machine, is no more, and would be without others."""
        offer = self._evicted.get(mac)
        return offer is not None and offer.address == address and offer.until_s > now

    def forget_until(self, now: float) -> None:
        """Drop what has ended."""
        while self._by_mac:
            mac, offer = next(iter(self._by_mac.items()))
            if offer.until_s > now:
                return
            self.drop(mac)
