"""When to send again what was not answered: RFC 6298's estimate with backoff, or the client's own fixed time. Pure."""

INITIAL_S = 1.0
MIN_S = 0.1
"""Firmware stalls now and then, and resending at once helps nobody. Each loss costs a machine this long: at 0.3 s one
percent of it held GRUB up for 130 s over an agent of 38 MB."""
MAX_S = 8.0
"""Longer than the 5 or 6 seconds after which clients send their last ACK again. Seen on: atftp 0.8, which answers a
block that it holds only the first time, and whose own timer starts anew at each packet: to send again every 4 seconds
kept it silent until we gave up.
"""
_CLIENTS_OWN = 2
"""So often the client's own time is taken as it is, then it grows too, for the same reason."""


class RetransmissionTimer:
    """How long to wait, and how often it was in vain since the last progress."""

    def __init__(self, fixed_s: int | None = None) -> None:
        self._fixed_s = fixed_s
        self._smoothed_s: float | None = None
        self._variation_s = 0.0
        self.expiries = 0
        """Since the last progress."""

    @property
    def round_trip_s(self) -> float | None:
        """The smoothed time from a window to its ACK; None before the first."""
        return self._smoothed_s

    def interval_s(self) -> float:
        """How long to wait now."""
        if self._fixed_s is not None:
            grown = self._fixed_s * 2.0 ** max(0, self.expiries - _CLIENTS_OWN)
            return min(grown, max(MAX_S, self._fixed_s))
        base = INITIAL_S if self._smoothed_s is None else max(MIN_S, self._smoothed_s + 4 * self._variation_s)
        return min(base * 2.0**self.expiries, max(MAX_S, base))

    def measured(self, seconds: float) -> None:
        """A window that was sent once was answered after that time (RFC 6298, section 2; Karn's rule)."""
        if self._smoothed_s is None:
            self._smoothed_s = seconds
            self._variation_s = seconds / 2
        else:
            self._variation_s += (abs(self._smoothed_s - seconds) - self._variation_s) / 4
            self._smoothed_s += (seconds - self._smoothed_s) / 8

    def progressed(self) -> None:
        self.expiries = 0

    def expired(self) -> None:
        self.expiries += 1
