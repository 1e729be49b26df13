"""How many packets of whom are answered, so that one host cannot take the server from the others. Pure; bounded.

A machine is known when it had a lease before or has a reservation. Known machines go before strangers in everything:
strangers share one allowance, which is far above what a room that is switched on needs.
"""

from collections.abc import Hashable
from ipaddress import IPv4Address

from netboot.model import Ignored
from netboot.wire.dhcp import NO_ADDRESS

PER_MACHINE_PER_S, PER_MACHINE_BURST = 500.0, 2000.0
"""High: whoever sends in the name of another machine must not silence it, only its share of our time is bounded."""
PER_SOURCE_PER_S, PER_SOURCE_BURST = 20.0, 200.0
STRANGERS_PER_S, STRANGERS_BURST = 2000.0, 4000.0
_MOST_REMEMBERED = 8192


class Allowances:
    """A token bucket for each key; a key that is not seen for long is forgotten."""

    def __init__(self, per_s: float, burst: float, most: int = _MOST_REMEMBERED) -> None:
        self._per_s = per_s
        self._burst = burst
        self._most = most
        self._full_s: dict[Hashable, float] = {}
        """When each bucket is full again, if nothing more is taken."""

    def take(self, key: Hashable, now: float) -> bool:
        """Whether there was one left."""
        full_s = max(now, self._full_s.pop(key, now))
        is_left = (full_s - now) * self._per_s <= self._burst - 1.0
        if len(self._full_s) >= self._most:
            del self._full_s[next(iter(self._full_s))]
        self._full_s[key] = full_s + 1.0 / self._per_s if is_left else full_s
        return is_left


class Intake:
    """Asked before any work is done for a packet."""

    def __init__(self) -> None:
        self._machines = Allowances(PER_MACHINE_PER_S, PER_MACHINE_BURST)
        self._sources = Allowances(PER_SOURCE_PER_S, PER_SOURCE_BURST)
        self._strangers = Allowances(STRANGERS_PER_S, STRANGERS_BURST, 1)

    def refuse(self, mac: str, source: IPv4Address, giaddr: IPv4Address, now: float) -> Ignored | None:
        """The reason why this packet is not looked at. A relay agent speaks for many: it has no limit of its own."""
        if not self._machines.take(mac, now):
            return Ignored(f"too many packets of one machine: more than {PER_MACHINE_PER_S:.0f} a second")
        if source != NO_ADDRESS and giaddr == NO_ADDRESS and not self._sources.take(source, now):
            return Ignored(f"too many packets from one address: more than {PER_SOURCE_PER_S:.0f} a second")
        return None

    def refuse_stranger(self, now: float) -> Ignored | None:
        """The same for a machine that was never seen before."""
        if not self._strangers.take("strangers", now):
            return Ignored("too many new machines at once: known ones go first")
        return None
