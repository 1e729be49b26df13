"""One host takes every address that it can get, and goes on asking: the room's machines notice nothing."""

from pathlib import Path

import pytest
from lease_asker import LeaseAsker
from netns import Lan
from test_appliance_serve import serving

pytestmark = pytest.mark.root

NETWORK = "10.99.0.0/16"
POOL = 60
MACHINES = 20


def test_a_host_that_empties_the_pool_takes_no_address_from_machines_that_renew(tmp_path: Path) -> None:
    with (
        Lan(3, network=NETWORK) as lan,
        LeaseAsker(lan.hosts[1], lan.hosts[0].ip) as room,
        LeaseAsker(lan.hosts[2], lan.hosts[0].ip, seed=8) as thief,
        serving(lan.hosts[0], tmp_path, "--pool", f"10.99.200.1-10.99.200.{POOL}") as served,
    ):
        machines = [room.new_mac() for _ in range(MACHINES)]
        held = {mac: room.lease(mac) for mac in machines}
        assert None not in held.values()
        assert {mac: room.renew(mac) for mac in machines} == held
        thief.start()
        thief.wait_until(POOL - MACHINES)  # all that there was
        for _ in range(3):
            assert {mac: room.renew(mac) for mac in machines} == held
        assert {mac: room.lease(mac) for mac in machines} == held  # those that started anew
        assert room.lease(room.new_mac(), 0.5) is None
        thief.stop()
        assert set(thief.acked.values()).isdisjoint(held.values())
        assert len(set(thief.acked.values())) == len(thief.acked) == POOL - MACHINES
        told = served.status()["counters"]["dhcp"]["ignored"]
        assert any("pool exhausted" in reason for reason in told), told
