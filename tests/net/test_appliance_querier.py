"""The appliance as IGMP and MLD querier: a switch that snoops keeps sending a group where it is wanted."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import serving

from imager.transport.group_socket import aim, family_of, hear, socket_address
from imager.wire.groups import is_ipv6
from netboot.services.capture import Capture
from netboot.services.group_queries import query_way
from netboot.services.interface import find_interface

pytestmark = pytest.mark.root

GROUP, GROUP6 = "239.77.8.8", "ff12::a077:8"
NETWORKS = {GROUP: "239.77.0.0/16", GROUP6: "ff12::a077:0/112"}
REMEMBERED_S = 4


def own(host: Host, group: str) -> str:
    return f"::%{INTERFACE}" if is_ipv6(group) else host.ip


@contextlib.contextmanager
def sending(host: Host, group: str) -> Iterator[None]:
    """Small packets to the group, ten a second."""
    over = threading.Event()
    with host.entered():
        sock = socket.socket(family_of(group), socket.SOCK_DGRAM)
        aim(sock, own(host, group), 1)
        target = socket_address(group, 5005, INTERFACE)

    def send() -> None:
        while not over.wait(0.1):
            sock.sendto(b"here", target)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sock.close()


@contextlib.contextmanager
def a_member(host: Host, group: str) -> Iterator[socket.socket]:
    with host.entered():
        sock = socket.socket(family_of(group), socket.SOCK_DGRAM)
        hear(sock, group, 5005, own(host, group))
    with sock:
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


def a_forgetful_switch(lan: Lan, once: Host, group: str) -> None:
    """It had a querier, `once`, so it sends groups only where they are wanted; that one has gone."""
    bridge = ["type", "bridge", "mcast_querier", "0", "mcast_membership_interval"]
    lan.bridge.run("ip", "link", "set", "br0", *bridge, str(100 * REMEMBERED_S))
    once.run("ip", "addr", "add", "fe80::1/64", "dev", INTERFACE)  # the switch listens to addresses below its own
    for state in ("down", "up"):
        lan.bridge.run("ip", "link", "set", "br0", state)
    with once.entered():
        way = query_way(find_interface(INTERFACE), ip_address(group))
        with Capture(INTERFACE, way.program, promiscuous=False) as capture:
            for _ in range(3):  # the first may come while the switch is about to ask itself
                capture.send(way.build(1, 125))
                time.sleep(0.3)
    time.sleep(1.1)  # the switch floods until the answers must have come


@pytest.mark.long
@pytest.mark.parametrize("group", [GROUP, GROUP6])
def test_membership_stays_alive_where_the_appliance_asks_and_not_otherwise(tmp_path: Path, group: str) -> None:
    with Lan(3) as lan:
        appliance, machine, once = lan.hosts
        a_forgetful_switch(lan, once, group)
        config = tmp_path / "roomcast.toml"
        keys = f'interfaces = ["{INTERFACE}"]\nquerier = true\nquerier-interval-s = 2\n'
        config.write_text(f'{keys}cast-network = "{NETWORKS[group]}"\n')
        with sending(appliance, group), a_member(machine, group) as member:
            assert not hears_for(member, 2 * REMEMBERED_S)
            with serving(appliance, tmp_path / "appliance", "--config", str(config)) as served:
                member.settimeout(8)
                member.recv(100)
                assert hears_for(member, REMEMBERED_S + 1), served.log()
                assert f"asks as {'MLD' if is_ipv6(group) else 'IGMP'} querier" in served.log()


@pytest.mark.parametrize("group", [GROUP, GROUP6])
def test_appliance_leaves_it_to_a_querier_that_is_there(tmp_path: Path, group: str) -> None:
    with Lan(1) as lan:
        lan.bridge.run("ip", "link", "set", "br0", "type", "bridge", "mcast_query_use_ifaddr", "1")
        config = tmp_path / "roomcast.toml"
        config.write_text(f'interfaces = ["{INTERFACE}"]\nquerier = true\ncast-network = "{NETWORKS[group]}"\n')
        with serving(lan.hosts[0], tmp_path / "appliance", "--config", str(config)) as served:
            protocol = "MLD" if is_ipv6(group) else "IGMP"
            end = time.monotonic() + 8
            while f"another {protocol} querier asks" not in served.log():
                assert time.monotonic() < end, served.log()
                time.sleep(0.05)
            assert f"asks as {protocol} querier" not in served.log()
