"""The clock that leases are counted by: see netboot/dhcp/lease_time.py for what it does over a restart."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netboot.dhcp.lease_time import ClockReading, continue_lease_time

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class KernelClocks:
    """What the kernel tells of time."""

    boot_id: str
    boot: Callable[[], float]
    """CLOCK_BOOTTIME, seconds."""
    wall: Callable[[], float]


def kernel_clocks() -> KernelClocks:
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:  # no /proc: every start counts as one after another boot
        boot_id = f"unknown-{time.time_ns()}"
    return KernelClocks(boot_id, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), time.time)


class LeaseClock:
    """Called, it tells lease time in seconds. Setting the wall clock does not move it."""

    def __init__(self, saved: ClockReading | None = None, clocks: KernelClocks | None = None) -> None:
        self._clocks = clocks or kernel_clocks()
        boot_s = self._clocks.boot()
        self._offset_s = continue_lease_time(saved, self._clocks.boot_id, boot_s, self._clocks.wall()) - boot_s

    def __call__(self) -> float:
        return self._clocks.boot() + self._offset_s

    def read(self) -> ClockReading:
        """For whoever keeps it over a restart."""
        boot_s = self._clocks.boot()
        return ClockReading(self._clocks.boot_id, boot_s, self._clocks.wall(), boot_s + self._offset_s)
