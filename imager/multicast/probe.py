"""The burst before a session, and what each receiver heard of it. Pure.

Probes are beacons, as long as data: what carries all of them carries the cast.
"""

from collections.abc import Iterable

from imager.multicast.events import ReceiverProbed
from imager.wire.packets import Report

PROBES = 32
PROBE_GAP_S = 0.0002


class Probing:
    """One session's burst, from start() on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.left = 0
        """Probes to be sent yet."""
        self._unheard: set[int] = set()

    def start(self, receivers: Iterable[int]) -> bool:
        """Those that are there. False: there is nothing to send, or nobody to hear it."""
        self._unheard = set(receivers)
        self.left = self._count if self._unheard else 0
        return self.left > 0

    def sent(self) -> bool:
        """A probe has left; whether it was the last."""
        self.left -= 1
        return not self.left

    def report(self, receiver: int, report: Report) -> ReceiverProbed | None:
        """A receiver's words; an event at the first that come after the burst, which is when data has reached it."""
        if not report.received or receiver not in self._unheard:
            return None
        self._unheard.discard(receiver)
        return ReceiverProbed(receiver, min(report.probes, self._count), self._count)
