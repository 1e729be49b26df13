"""Leases, clocks that tests move, and lease files, for tests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from netboot.dhcp.leases import Lease, LeaseState
from netboot.persistence.lease_file import LeaseFile, open_lease_file
from netboot.services.lease_clock import KernelClocks, LeaseClock

FIRST = IPv4Address("10.77.0.100")


@dataclass
class Clocks:
    """A machine's clocks, in a test's hands."""

    boot_id: str = "first boot"
    boot_s: float = 1000.0
    wall_s: float = 1_700_000_000.0

    def kernel(self) -> KernelClocks:
        return KernelClocks(self.boot_id, lambda: self.boot_s, lambda: self.wall_s)

    def pass_s(self, seconds: float) -> None:
        self.boot_s += seconds
        self.wall_s += seconds

    def boot(self, after_s: float) -> None:
        """The machine was off for so long."""
        self.boot_id += " and another"
        self.boot_s = 20.0
        self.wall_s += after_s


def a_lease(number: int = 0, expires_s: float = 5000.0, state: LeaseState = LeaseState.BOUND) -> Lease:
    return Lease(f"52:54:00:00:00:{number:02x}", FIRST + number, expires_s, state, f"pc-{number}", bytes([1, number]))


def changes(leases: Iterable[Lease], gone: Iterable[IPv4Address] = ()) -> Mapping[IPv4Address, Lease | None]:
    return {**dict.fromkeys(gone), **{lease.address: lease for lease in leases}}


def open_leases(path: Path, clocks: Clocks | None = None, earlier: Iterable[Lease] = ()) -> LeaseFile:
    return open_lease_file(path, earlier=earlier, clock=LeaseClock(None, (clocks or Clocks()).kernel()).read)
