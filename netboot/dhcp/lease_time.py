"""The time that leases are counted in, over restarts and whatever happens to the wall clock. Pure.

Readings begin with the wall clock's at the very first start, so that they look like dates; from then on only the
kernel's CLOCK_BOOTTIME moves them. After another boot of the machine nothing can say how long it was off but the wall
clock, which may be wrong by years then (an empty battery, a restored snapshot), so lease time goes on where it was: no
address is taken from its holder by a wrong clock, and one that was in use stays so for at most one lease too long.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Lease time as it was at one moment, beside what the kernel told then."""

    boot_id: str
    """Of the kernel's run: /proc/sys/kernel/random/boot_id."""
    boot_s: float
    """CLOCK_BOOTTIME: seconds since that boot, sleep included."""
    wall_s: float
    """Unix seconds, for people: never compared."""
    lease_s: float


def continue_lease_time(saved: ClockReading | None, boot_id: str, boot_s: float, wall_s: float) -> float:
    """Lease time now, given what was saved last (None: never)."""
    if saved is None:
        return wall_s
    if saved.boot_id != boot_id:
        return saved.lease_s
    return saved.lease_s + max(0.0, boot_s - saved.boot_s)  # less than saved: a container moved or restored
