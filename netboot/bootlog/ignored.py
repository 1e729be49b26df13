"""Packets and requests that got no answer, of all machines: the latest, each with its reason. Pure, bounded."""

from collections import OrderedDict
from dataclasses import dataclass

MAX_IGNORED = 500


@dataclass(frozen=True, slots=True)
class IgnoredPacket:
    """One kind of packet from one sender that was not answered."""

    source: str
    """MAC, or address where no MAC is known."""
    what: str
    """DHCP DISCOVER, TFTP pxelinux.0."""
    reason: str
    first_s: float
    last_s: float
    count: int = 1


_Key = tuple[str, str, str]


class IgnoredPackets:
    """Equal ones are counted. The oldest of the largest kind make room, so that a flood pushes out only itself."""

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[_Key, list[float]]] = {}
        """By the reason up to its first colon: first and last time, and count, of each; the oldest first."""
        self._length = 0

    def add(self, source: str, what: str, reason: str, now: float, count: int = 1) -> None:
        kind = reason.partition(":")[0]
        of_kind = self._kinds.get(kind)
        if of_kind is None:
            of_kind = self._kinds[kind] = OrderedDict()
        key = (source, what, reason)
        old = of_kind.get(key)
        if old is not None:
            old[1] = now
            old[2] += count
            of_kind.move_to_end(key)
            return
        of_kind[key] = [now, now, count]
        self._length += 1
        if self._length > MAX_IGNORED:
            largest = max(self._kinds, key=lambda each: len(self._kinds[each]))
            self._kinds[largest].popitem(last=False)
            self._length -= 1
            if not self._kinds[largest]:
                del self._kinds[largest]

    def latest(self) -> list[IgnoredPacket]:
        """The latest heard first."""
        found = [
            IgnoredPacket(*key, first_s, last_s, round(count))
            for of_kind in self._kinds.values()
            for key, (first_s, last_s, count) in of_kind.items()
        ]
        return sorted(reversed(found), key=lambda packet: packet.last_s, reverse=True)
