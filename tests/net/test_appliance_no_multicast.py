"""Real agents on a network that carries no multicast, or not to all: each is told within 20 s and gets its image."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import INTERFACE, Lan
from test_cast_comes_back import Room, children, prepare

pytestmark = pytest.mark.root

MIB = 1 << 20
SAID_WITHIN_S = 20


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    image = tmp_path / "golden.img"
    image.write_bytes(b"an image that is small" * 400_000)
    with Lan(3) as lan:
        yield Room(tmp_path, lan, image)


def events(room: Room) -> list[str]:
    return [event["text"] for event in room.session()["events"]]


def test_machine_that_the_cast_does_not_reach_fetches_and_its_session_says_why(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOMCAST_CAST_TTL", "3")
    unreached, reached = room.machines
    room.lan.filter_group(unreached, "239.77.0.0/16")
    room.lan.filter_group(reached, "239.77.0.0/16 ip ttl != 3")
    room.lan.hosts[0].run("ip", "link", "set", INTERFACE, "mtu", "1400")  # which bounds the cast's packets
    with room.appliance():
        prepare(room)
        began = time.monotonic()
        room.until(lambda: any("by unicast" in text for text in events(room)), SAID_WITHIN_S)
        room.until_done()
        assert time.monotonic() - began < 2 * SAID_WITHIN_S
        told = events(room)
        assert sum("which it fetches by unicast: none of the cast's packets reach it" in text for text in told) == 1
        assert any("heard all 32 probes" in text for text in told), told
        assert "none of its multicast packets arrived" in room.said(unreached)


def test_session_by_ipv6_is_cast_to_machines_that_have_it_and_fetched_by_the_others(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOMCAST_CAST_NETWORK", "ff12::a077:0/112")
    without, with_it = room.machines
    without.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.disable_ipv6=1")
    with room.appliance():
        prepare(room)
        room.until_done()
        told = events(room)
        assert f"{INTERFACE} has no IPv6 address" in room.said(without)
        assert sum("which it fetches by unicast" in text for text in told) == 1
        assert sum("receives the cast at fe80::" in text for text in told) == 1, told
        assert "none of its multicast packets arrived" not in room.said(with_it)
        assert room.session()["group"].startswith("ff12::a077:")


@pytest.mark.long
def test_session_that_casts_nothing_serves_a_network_without_multicast(room: Room) -> None:
    room.lan.carry_no_multicast()
    with room.appliance() as served:
        prepare(room, "--unicast")
        assert children(served.process.pid, "send_process") == []
        room.until_done(SAID_WITHIN_S)
        assert room.session()["unicast"] is True
        assert sum("by unicast: this session casts nothing" in text for text in events(room)) == 2
        assert room.session()["statistics"]["unicast_bytes"] > 0
