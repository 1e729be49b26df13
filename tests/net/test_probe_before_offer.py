"""An address that was not asked for yet is asked for before it is offered, and nobody but its client waits for that."""

from pathlib import Path

import pytest
from lease_asker import LeaseAsker
from netns import INTERFACE, Lan
from test_appliance_serve import serving

pytestmark = pytest.mark.root

NETWORK = "10.99.0.0/16"
FREE, TAKEN = "10.99.207.200", "10.99.207.201"
"""Far behind those that are asked for ahead of need."""


def test_a_client_that_waits_for_a_probe_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    with Lan(3, network=NETWORK) as lan, LeaseAsker(lan.hosts[1], lan.hosts[0].ip) as asker:
        squatter = lan.hosts[2]
        squatter.run("ip", "address", "add", f"{TAKEN}/16", "dev", INTERFACE)
        with serving(lan.hosts[0], tmp_path, "--pool", "10.99.200.1-10.99.207.254") as served:
            known = asker.new_mac()
            address = asker.lease(known)
            first, second = asker.new_mac(), asker.new_mac()
            asker.ask((first, FREE), (known, ""))
            assert asker.next_offer() == (known, address)  # it asked later, and has no probe to wait for
            assert asker.next_offer() == (first, FREE)
            asker.ask((second, TAKEN))
            mac, offered = asker.next_offer()
            assert mac == second and offered not in (TAKEN, FREE, address)
            (told,) = [line for line in served.log().splitlines() if "address in use by a stranger" in line]
            assert TAKEN in told and squatter.mac in told
