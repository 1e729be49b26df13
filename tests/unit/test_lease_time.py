"""Lease time over restarts: no wall clock, however wrong, ends a lease."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from dhcp_builders import MAC, OTHER_MAC, a_discover, a_renewal, a_server, an_arrival, lease_address, reply_to
from lease_builders import Clocks, open_leases

from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.server import DhcpServer
from netboot.services.lease_clock import LeaseClock
from netboot.wire.dhcp_options import MessageType

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
JUMPS = pytest.mark.parametrize("jump_s", [2 * HOUR_S, -DAY_S, 7 * DAY_S], ids=["+2 h", "-1 day", "+7 days"])


class Appliance:
    """A server of one address with its lease file, on clocks that a test moves."""

    def __init__(self, directory: Path, clocks: Clocks) -> None:
        self._path = directory / "leases.db"
        self._clocks = clocks
        self.start()

    def start(self) -> None:
        self._file = open_leases(self._path, self._clocks)
        self.clock = LeaseClock(self._file.reading, self._clocks.kernel())
        self.table = LeaseTable(self._file.load())
        self.server: DhcpServer = a_server(self.table, first=100, last=100, lease_s=3600)

    def keep(self) -> None:
        self._file.write({change.address: change.lease for change in self.table.take_changes()}, self.clock.read())

    def kill(self) -> None:
        """As kill -9: nothing more is written."""
        self._file.close()

    def lease(self, mac: str) -> None:
        lease_address(self.server, mac, now=self.clock())
        self.keep()

    def gives_to(self, mac: str) -> bool:
        outcome = self.server.respond(a_discover(mac=mac), an_arrival(self.clock()))
        return not hasattr(outcome, "reason")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def appliance(tmp_path: Path, clocks: Clocks) -> Appliance:
    return Appliance(tmp_path, clocks)


@JUMPS
def test_a_running_appliance_gives_no_address_in_use_away(appliance: Appliance, clocks: Clocks, jump_s: float) -> None:
    appliance.lease(MAC)
    clocks.wall_s += jump_s
    clocks.pass_s(3500)
    assert not appliance.gives_to(OTHER_MAC)
    renewed = reply_to(appliance.server, a_renewal(lease_of(appliance), mac=MAC), an_arrival(appliance.clock()))
    assert renewed.packet.message_type is MessageType.ACK
    clocks.pass_s(3601)
    assert appliance.gives_to(OTHER_MAC)


@JUMPS
def test_a_killed_appliance_gives_no_address_in_use_away(appliance: Appliance, clocks: Clocks, jump_s: float) -> None:
    appliance.lease(MAC)
    clocks.pass_s(500)
    appliance.kill()
    clocks.wall_s += jump_s
    clocks.pass_s(3000)  # the machine ran on, so the time that passed is known
    appliance.start()
    assert not appliance.gives_to(OTHER_MAC)
    clocks.pass_s(101)
    assert appliance.gives_to(OTHER_MAC)


@JUMPS
def test_an_appliance_whose_machine_was_off_gives_no_address_in_use_away(
    appliance: Appliance, clocks: Clocks, jump_s: float
) -> None:
    appliance.lease(MAC)
    appliance.kill()
    clocks.boot(after_s=jump_s)
    appliance.start()
    assert not appliance.gives_to(OTHER_MAC)
    clocks.pass_s(3599)
    assert not appliance.gives_to(OTHER_MAC)
    clocks.pass_s(1)
    assert appliance.gives_to(OTHER_MAC)


def test_jump_upon_jump_and_restart_upon_restart_add_no_second(appliance: Appliance, clocks: Clocks) -> None:
    appliance.lease(MAC)
    start = appliance.clock()
    for jump_s in (2 * HOUR_S, -DAY_S, 7 * DAY_S) * 5:
        clocks.wall_s += jump_s
        clocks.pass_s(100)
        appliance.keep()
        appliance.kill()
        appliance.start()
    assert appliance.clock() - start == pytest.approx(1500)


def test_a_boot_time_that_runs_backwards_stops_lease_time_only(appliance: Appliance, clocks: Clocks) -> None:
    appliance.lease(MAC)
    before = appliance.clock()
    appliance.kill()
    clocks.boot_s -= 900  # a container that was moved
    appliance.start()
    assert appliance.clock() == before


def lease_of(appliance: Appliance) -> IPv4Address:
    lease = appliance.table.get_by_mac(MAC)
    assert lease is not None
    return lease.address
