"""File casts to groups of IPv6: addresses of the link and of a site, loss, filters, machines without IPv6."""

import os
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from test_cast_file import MIB, Room

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

HEADERS = 1514 / 1420
"""Ethernet, IPv6, UDP and ours around 1,420 bytes of the file."""


def without_ipv4(host: Host) -> None:
    host.run("ip", "-4", "addr", "flush", "dev", INTERFACE)


def without_ipv6(host: Host) -> None:
    host.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.disable_ipv6=1")


def address_of_link(host: Host) -> str:
    """As another host writes it."""
    told = host.run("ip", "-6", "-brief", "addr", "show", "dev", INTERFACE)
    return told.split()[2].split("/")[0] + f"%{INTERFACE}"


def test_a_cast_by_ipv6_serves_machines_with_and_without_ipv4_the_same_file(tmp_path: Path) -> None:
    with Lan(4) as lan:
        room = Room(lan, tmp_path, 16 * MIB + 12_345)
        without_ipv4(lan.hosts[1])
        lan.set_loss(lan.hosts[2], 2)
        receivers = [room.receive(1), room.receive(2), room.receive(3, sender=address_of_link(lan.hosts[0]))]
        report = room.send(with_ipv6=True, min_receivers=3).result()
        results = [receiver.result() for receiver in receivers]
        assert report["receivers_done"] == 3 and report["failed"] == {} and report["unicast_bytes"] == 0
        assert [result["unicast"] for result in results] == ["", "", ""]
        assert results[1]["repair_packets"] and not results[0]["lost_packets"]
        assert all(room.holds(number) for number in (1, 2, 3))
        wire = lan.hosts[0].statistic("tx bytes") / room.source.stat().st_size
        assert wire < HEADERS + 0.05


def test_a_network_of_ipv6_alone_carries_a_cast_of_the_site(tmp_path: Path) -> None:
    with Lan(3, addressed=False) as lan:
        for number, host in enumerate(lan.hosts, 1):
            host.run("ip", "addr", "add", f"fd00:77::{number}/64", "dev", INTERFACE)
        room = Room(lan, tmp_path, 2 * MIB)
        receivers = [room.receive(number) for number in (1, 2)]
        report = room.send(group="ff15::a000:5", ttl=2, min_receivers=2).result()
        assert report["receivers_done"] == 2
        assert [receiver.result()["unicast"] for receiver in receivers] == ["", ""]
        assert room.holds(1) and room.holds(2)


def test_whom_an_ipv6_group_does_not_reach_gets_the_file_by_tcp_and_is_told_why(tmp_path: Path) -> None:
    with Lan(4) as lan:
        room = Room(lan, tmp_path, 2 * MIB)
        lan.filter_group(lan.hosts[1], "ff12::a000:9")
        without_ipv6(lan.hosts[2])
        lan.set_mtu(lan.hosts[3], 1400)
        receivers = [room.receive(number) for number in (1, 2, 3)]
        report = room.send(group="ff12::a000:9", min_receivers=3).result()
        results = [receiver.result() for receiver in receivers]
        told = [result["unicast"] for result in results]
        assert all(result["elapsed_s"] < 20 for result in results)
        assert report["receivers_done"] == 3 and report["failed"] == {}
        assert report["unicast_bytes"] == 3 * room.source.stat().st_size
        assert "none of its multicast packets arrived" in told[0] and "none of its multicast packets arrived" in told[2]
        assert told[1].startswith(f"{INTERFACE} has no IPv6 address, and ff12::a000:9 is an IPv6 group")
        assert all(room.holds(number) for number in (1, 2, 3))
