"""Packets and requests that got no answer, of all machines: the latest, each with its reason. Pure, bounded."""

from collections import OrderedDict
from dataclasses import dataclass, replace

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


class IgnoredPackets:
    """Equal ones are counted, the oldest make room."""

    def __init__(self) -> None:
        self._by_kind: OrderedDict[tuple[str, str, str], IgnoredPacket] = OrderedDict()

    def add(self, source: str, what: str, reason: str, now: float) -> None:
        key = (source, what, reason)
        old = self._by_kind.get(key)
        if old is None:
            self._by_kind[key] = IgnoredPacket(source, what, reason, now, now)
            if len(self._by_kind) > MAX_IGNORED:
                self._by_kind.popitem(last=False)
        else:
            self._by_kind[key] = replace(old, count=old.count + 1, last_s=now)
            self._by_kind.move_to_end(key)

    def latest(self) -> list[IgnoredPacket]:
        """The latest heard first."""
        return list(reversed(self._by_kind.values()))
