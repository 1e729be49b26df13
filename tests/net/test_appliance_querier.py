"""The appliance as IGMP querier: a switch that snoops keeps sending a group where it is wanted."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import serving

from netboot.services.capture import IGMP, Capture
from netboot.wire.igmp import build_general_query

pytestmark = pytest.mark.root

GROUP = "239.77.8.8"
REMEMBERED_S = 3


@contextlib.contextmanager
def sending(host: Host) -> Iterator[None]:
    """Small packets to the group, ten a second."""
    over = threading.Event()
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host.ip))

    def send() -> None:
        while not over.wait(0.1):
            sock.sendto(b"here", (GROUP, 5005))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sock.close()


@contextlib.contextmanager
def a_member(host: Host) -> Iterator[socket.socket]:
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind((GROUP, 5005))
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(host.ip)
        )
        yield sock


def hears_for(sock: socket.socket, seconds: float) -> bool:
    """Whether packets keep coming, with no gap of a second."""
    sock.settimeout(1)
    end = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < end:
            sock.recv(100)
        return True
    return False


def a_forgetful_switch(lan: Lan, once: Host) -> None:
    """It had a querier, `once`, so it sends groups only where they are wanted; that one has gone."""
    bridge = ["type", "bridge", "mcast_querier", "0", "mcast_membership_interval"]
    lan.bridge.run("ip", "link", "set", "br0", *bridge, str(100 * REMEMBERED_S))
    with once.entered(), Capture(INTERFACE, IGMP, promiscuous=False) as capture:
        capture.send(build_general_query(bytes.fromhex(once.mac.replace(":", "")), IPv4Address(once.ip), 1, 125))
    time.sleep(1.1)  # the switch floods until the answers must have come


@pytest.mark.long
def test_membership_stays_alive_where_the_appliance_asks_and_not_otherwise(tmp_path: Path) -> None:
    with Lan(3) as lan:
        appliance, machine, once = lan.hosts
        a_forgetful_switch(lan, once)
        config = tmp_path / "roomcast.toml"
        config.write_text(f'interfaces = ["{INTERFACE}"]\nquerier = true\nquerier-interval-s = 2\n')
        with sending(appliance), a_member(machine) as member:
            assert not hears_for(member, 2 * REMEMBERED_S)
            with serving(appliance, tmp_path / "appliance", "--config", str(config)) as served:
                member.settimeout(8)
                member.recv(100)
                assert hears_for(member, REMEMBERED_S + 1), served.log()
                assert "asks as IGMP querier" in served.log()


def test_appliance_leaves_it_to_a_querier_that_is_there(tmp_path: Path) -> None:
    with Lan(1) as lan:
        lan.bridge.run("ip", "link", "set", "br0", "type", "bridge", "mcast_query_use_ifaddr", "1")
        config = tmp_path / "roomcast.toml"
        config.write_text(f'interfaces = ["{INTERFACE}"]\nquerier = true\n')
        with serving(lan.hosts[0], tmp_path / "appliance", "--config", str(config)) as served:
            end = time.monotonic() + 8
            while "another IGMP querier asks" not in served.log():
                assert time.monotonic() < end, served.log()
                time.sleep(0.05)
            assert "asks as IGMP querier" not in served.log()
