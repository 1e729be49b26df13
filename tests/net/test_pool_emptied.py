"""One host makes up thousands of machines and takes every address that it can get: the room's machines notice nothing.

What holds while it goes on: whoever has a lease renews it, and gets it again after a restart; a new machine with a
reservation gets its address, which is no pool's; a machine that had an address before gets one, because up to a quarter
of a pool is kept for such. What does not: a machine that nobody knows is one of thousands then. It gets an address when
the first leases of the made-up ones end, which nobody renews: after 600 s (TRIAL_S of dhcp/server.py) or the subnet's
`lease-s`, if that is shorter. Behind a relay that names its ports (option 82) it need not wait: a port has its share.
"""

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from real_clients import Client
from test_appliance_serve import Served, serving
from thief import Thief

pytestmark = pytest.mark.root

SERVER = "10.99.0.1"
POOL = 60
MADE_UP = 2000
RESERVED = "10.99.0.9"
SHORTEST_LEASE_S = 60
HASTY = "supersede dhcp-renewal-time 2;\nsupersede dhcp-rebinding-time 50;\n"
"""For dhclient: it renews every two seconds."""


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Host 0 serves and has 10.99.0.1; the others have no address."""
    with Lan(hosts=6, addressed=False, checksum_offload=False) as network:
        network.hosts[0].run("ip", "address", "add", f"{SERVER}/24", "dev", INTERFACE)
        yield network


def configuration(directory: Path, lease_s: int, reserved: Host) -> str:
    file = directory / "roomcast.toml"
    file.write_text(
        f'pool = "10.99.0.100-10.99.0.{99 + POOL}"\nlease-s = {lease_s}\n'
        f'[[reservation]]\nmac = "{reserved.mac}"\naddress = "{RESERVED}"\n'
    )
    return str(file)


def wait_until(done: Callable[[], bool], told: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def obtained(client: Client) -> list[str]:
    """The address of each ACK that it got so far, in its own words."""
    return re.findall(r"(?:lease of|DHCPACK of) (\S+)", client.log())


def next_address(client: Client, already: int = 0, seconds: float = 30) -> str:
    """Wait for one more ACK than `already`; the address."""
    wait_until(lambda: len(obtained(client)) > already, client.log, seconds)
    return obtained(client)[already]


def renew(client: Client) -> str:
    """Have a udhcpc ask for its address again."""
    already = len(obtained(client))
    client.signal(signal.SIGUSR1)
    return next_address(client, already)


def power_off(client: Client) -> None:
    """It releases nothing, and forgets all."""
    client.signal(signal.SIGKILL)
    assert client.process is not None
    client.process.wait(5)
    client.host.run("ip", "address", "flush", "dev", INTERFACE)


def wait_for_the_end_of_the_pool(thief: Thief, served: Served, stolen: int) -> None:
    """It has all that there is, and has gone on for long."""

    def refusals() -> int:
        told = served.status()["counters"]["dhcp"]["ignored"]
        return sum(count for reason, count in told.items() if "pool exhausted" in reason)

    wait_until(lambda: thief.asked > MADE_UP and refusals() > MADE_UP // 2, lambda: (thief.asked, served.status()))
    assert len(set(thief.acked.values())) == len(thief.acked) == stolen


def test_a_host_that_empties_the_pool_takes_no_address_from_known_machines(lan: Lan, tmp_path: Path) -> None:
    server, thieving, *hosts = lan.hosts
    udhcpc, dhclient, newcomer = (
        Client(name, host, tmp_path / f"client{host.number}")
        for name, host in zip(("udhcpc", "dhclient", "udhcpc"), hosts, strict=False)
    )
    dhclient.settings = HASTY
    file = configuration(tmp_path, 600, reserved=newcomer.host)
    with serving(server, tmp_path / "server", "--config", file) as served:
        held, kept = next_address(udhcpc.start()), next_address(dhclient.start())
        with Thief(thieving) as thief:
            wait_for_the_end_of_the_pool(thief, served, POOL - 2)
            renewals = len(obtained(dhclient))
            assert [renew(udhcpc) for _ in range(3)] == [held] * 3
            power_off(udhcpc)
            already = len(obtained(udhcpc))
            assert next_address(udhcpc.start(), already) == held
            assert next_address(newcomer.start()) == RESERVED
            assert next_address(dhclient, renewals + 1) == kept
        assert set(obtained(udhcpc)) == {held} and set(obtained(dhclient)) == {kept}
        assert not {held, kept, RESERVED} & set(thief.acked.values())
        assert "Traceback" not in served.log()


@pytest.mark.long
def test_who_was_away_finds_its_address_and_a_stranger_gets_one_when_the_made_up_leases_end(
    lan: Lan, tmp_path: Path
) -> None:
    server, thieving, *hosts = lan.hosts
    away, stranger = (Client("udhcpc", host, tmp_path / f"client{host.number}") for host in hosts[:2])
    file = configuration(tmp_path, SHORTEST_LEASE_S, reserved=hosts[2])
    with serving(server, tmp_path / "server", "--config", file) as served:
        address = next_address(away.start())
        assert renew(away) == address, "by which it is no stranger any more"
        power_off(away)
        with Thief(thieving) as thief:
            wait_for_the_end_of_the_pool(thief, served, POOL - 1)
            time.sleep(SHORTEST_LEASE_S + 1)  # its lease has ended, and the thief takes all others anew
            assert next_address(away.start()) == address
            assert address not in thief.acked.values()
        got = next_address(stranger.start(), seconds=SHORTEST_LEASE_S + 20)
        assert got in thief.acked.values()
