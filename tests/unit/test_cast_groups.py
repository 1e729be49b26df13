"""Which groups a cast may have, and which address of ours goes with one."""

import socket
from ipaddress import IPv6Address, ip_address

import pytest

from imager.errors import CastError
from imager.transport.interfaces import address_for, group_packet_bytes, interface_of
from imager.transport.own_end import OwnEnd, find_own_end
from imager.wire.groups import (
    checked_group,
    discovery_group,
    discovery_groups6,
    group_problem,
    is_of_link,
    random_group,
)


@pytest.mark.parametrize("group", ["239.77.5.5", "232.1.1.1", "ff12::8000:0", "ff15::a000:5", "ff18:0:1::feff:ffff"])
def test_group_that_data_can_go_to_is_taken(group: str) -> None:
    assert checked_group(group) == str(ip_address(group))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("lab", "a multicast group is wanted"),
        ("10.0.0.1", "239.77.5.5"),
        ("239.0.0.9", "every switch floods"),
        ("fe80::1", "ff12::a000:5"),
        ("ff12::a000:5%lo", "ff12::a000:5"),
        ("ff02::1", "take ff12::a000:5"),
        ("ff05::1:3", "take ff15::a000:5"),
        ("ff72::a000:5", "take ff12::a000:5"),
        ("ff32::a000:5", "of a single source"),
        ("ff35:40:fd00::a000:5", "take ff15::a000:5"),
        ("ff11::a000:5", "ff12::a000:5, ff15::a000:5 or ff18::a000:5"),
        ("ff1e::a000:5", "ff12::a000:5, ff15::a000:5 or ff18::a000:5"),
        ("ff12::1", "RFC 3307"),
        ("ff12::7fff:ffff", "ff12::a000:5"),
        ("ff15::ff00:1", "ff15::a000:5"),
    ],
)
def test_group_that_cannot_be_is_refused_with_one_that_can(text: str, advice: str) -> None:
    with pytest.raises(CastError, match=advice.replace(".", r"\.")):
        checked_group(text)


def test_group_of_the_link_is_refused_where_routers_are_to_be_passed() -> None:
    with pytest.raises(CastError, match="passes no router"):
        checked_group("ff12::a000:5", ttl=2)
    assert checked_group("ff15::a000:5", ttl=2) == "ff15::a000:5"


@pytest.mark.parametrize(("ttl", "scope"), [(1, 2), (3, 5)])
def test_groups_by_chance_can_be_used_and_differ(ttl: int, scope: int) -> None:
    groups = {random_group(True, ttl) for _ in range(200)}
    assert len(groups) > 190
    for group in groups:
        assert checked_group(group, ttl) == group
        assert IPv6Address(group).packed[1] & 15 == scope
        assert is_of_link(group) == (ttl == 1)
    assert not groups & set(discovery_groups6())


def test_a_cast_is_announced_as_far_as_its_group_goes() -> None:
    assert discovery_group("239.77.5.5") == "239.77.0.1"
    found = [discovery_group(group) for group in ("ff12::a000:5", "ff15::a000:5", "ff18::a000:5")]
    assert found == list(discovery_groups6())
    assert all(group_problem(ip_address(group)) == "" for group in found)


def test_interface_without_an_address_of_the_groups_kind_is_told_with_what_to_do() -> None:
    with pytest.raises(CastError, match="disable_ipv6=0"):
        address_for("ff12::a000:5", "lo")
    with pytest.raises(CastError, match="ip addr add ADDRESS/LENGTH dev lo"):
        OwnEnd("127.0.0.1", "lo").address_for("ff15::a000:5")
    with pytest.raises(CastError, match="name it: --interface IF"):
        OwnEnd("10.0.0.1", "").address_for("ff12::a000:5")
    with pytest.raises(CastError, match="there is no interface nix0"):
        find_own_end("nix0")


def test_own_end_is_found_by_name_and_by_the_way_to_a_peer() -> None:
    assert find_own_end("lo") == find_own_end(None, "127.0.0.1") == OwnEnd("127.0.0.1", "lo")
    assert interface_of("127.0.0.1") == interface_of("fe80::1%lo") == "lo"


@pytest.mark.skipif(not socket.has_ipv6, reason="a machine without IPv6")
def test_packets_of_ipv6_leave_room_for_its_header() -> None:
    assert group_packet_bytes("127.0.0.1", 1500) == 1472
    assert group_packet_bytes("fe80::1%lo", 1500) == 1452
