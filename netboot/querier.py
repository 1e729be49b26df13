"""When a querier asks who wants multicast, and when it leaves that to another.

IGMP's (RFC 3376, sections 6.6.2 and 8), and MLD's, which is the same (RFC 3810, sections 7.6.2 and 9).

Pure: no I/O. It looks first whether somebody asks already, and leaves it to whoever does; against one that comes later
the lower address wins, as the RFC has it.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

LOOK_S = 4.0
"""Before the first query. The shell has meanwhile left a group, upon which a querier asks at once."""
STARTUP_QUERIES = 2
_ROBUSTNESS = 2
_MOST_RESPONSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Asking:
    """Nobody else asks (any longer): we do from now on."""


@dataclass(frozen=True, slots=True)
class LeftTo:
    """Another querier asks."""

    other: Address


class Querier:
    """One network's. Call handle_timeout at next_timeout; a query is due while take_query says so."""

    def __init__(self, own: Address, interval_s: float, now: float) -> None:
        self._own = own
        self._interval_s = interval_s
        self.response_s = min(_MOST_RESPONSE_S, interval_s / 2)
        """What members are given to answer."""
        self._other_s = _ROBUSTNESS * interval_s + self.response_s / 2
        self._startup = 0  # queries that follow each other fast
        self._asking = False
        self._at = now + LOOK_S
        self._is_due = False
        self._events: list[Asking | LeftTo] = []
        self._other: Address | None = None

    def hear(self, source: Address, now: float) -> None:
        """Somebody asked. 0.0.0.0 is a switch that looks for members, and is no querier (RFC 4541, section 2.1.1)."""
        if source == self._own or not int(source):
            return
        if self._asking and int(source) > int(self._own):
            return  # it leaves it to us when it hears us
        if source != self._other:
            self._other = source
            self._events.append(LeftTo(source))
        self._asking = self._is_due = False
        self._at = now + self._other_s

    def next_timeout(self) -> float:
        return self._at

    def handle_timeout(self, now: float) -> None:
        if now < self._at:
            return
        if not self._asking:
            self._asking = True
            self._other = None
            self._startup = STARTUP_QUERIES
            self._events.append(Asking())
        self._is_due = True
        self._startup = max(0, self._startup - 1)
        self._at = now + (self._interval_s / 4 if self._startup else self._interval_s)

    def take_query(self) -> bool:
        """Whether a general query is to be sent now."""
        due, self._is_due = self._is_due, False
        return due

    def events(self) -> list[Asking | LeftTo]:
        events, self._events = self._events, []
        return events
