"""File casts where multicast does not arrive: told within 20 s, a receiver at a time, and the file comes by TCP."""

import os
import time
from pathlib import Path

import pytest
from netns import INTERFACE, Lan
from test_cast_file import MIB, Room, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

SAID_WITHIN_S = 20


def test_those_whom_the_group_does_not_reach_get_the_file_by_tcp_and_the_others_by_the_cast(tmp_path: Path) -> None:
    with Lan(4) as lan:
        room = Room(lan, tmp_path, 4 * MIB)
        lan.filter_group(lan.hosts[1], "239.77.9.9")
        lan.set_mtu(lan.hosts[2], 1400)
        began = time.monotonic()
        receivers = [room.receive(number) for number in (1, 2, 3)]
        report = room.send(group="239.77.9.9", min_receivers=3).result()
        results = [receiver.result() for receiver in receivers]
        assert time.monotonic() - began < SAID_WITHIN_S
        assert report["receivers_done"] == 3 and report["failed"] == {}
        assert report["unicast_bytes"] == 2 * room.source.stat().st_size
        for result in results[:2]:
            assert "none of its multicast packets arrived" in result["unicast"]
            assert result["received_bytes"] == 0
        assert results[2]["unicast"] == "" and results[2]["received_bytes"] > 4 * MIB
        assert all(room.holds(number) for number in (1, 2, 3))


def test_a_receiver_whom_the_group_stops_reaching_gets_the_rest_by_tcp(tmp_path: Path) -> None:
    """Its switch forgets that it wanted the group; everything else goes on."""
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 16 * MIB)
        cut_off, hears = room.receive(1), room.receive(2)
        sender = room.send(group="239.77.9.9", min_receivers=2, max_bitrate_bps=30_000_000)
        until(lambda: lan.hosts[1].statistic("rx bytes") > 6 * MIB)
        lan.filter_group(lan.hosts[1], "239.77.0.0/16")
        began = time.monotonic()
        result = cut_off.result()
        assert time.monotonic() - began < SAID_WITHIN_S
        assert "none of its multicast packets arrived any more for 6 s" in result["unicast"]
        assert hears.result()["unicast"] == ""
        report = sender.result()
        assert report["receivers_done"] == 2 and report["failed"] == {}
        assert report["unicast_bytes"] < 11 * MIB, "what it held was sent again"
        assert room.holds(1) and room.holds(2)


@pytest.mark.long
def test_on_a_network_without_multicast_a_receiver_that_knows_the_sender_gets_the_file(tmp_path: Path) -> None:
    with Lan(3) as lan:
        lan.carry_no_multicast()
        room = Room(lan, tmp_path, 4 * MIB)
        began = time.monotonic()
        told = room.receive(1, sender=lan.hosts[0].ip)
        untold = room.receive(2, max_wait_s=3)
        report = room.send().result()
        assert "none of its multicast packets arrived" in told.result()["unicast"]
        assert time.monotonic() - began < SAID_WITHIN_S
        assert report["receivers_done"] == 1 and report["failed"] == {}
        assert room.holds(1)
        assert untold.wait() == 1
        assert "no sender announced a file within 3 s" in untold.log.read_text()


def test_a_sender_that_shall_not_cast_sends_nothing_to_its_group(tmp_path: Path) -> None:
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 4 * MIB + 1)
        receivers = [room.receive(number) for number in (1, 2)]
        report = room.send(unicast=True, min_receivers=2, max_bitrate_bps=100_000_000).result()
        for receiver in receivers:
            assert receiver.result()["unicast"] == "its sender casts nothing"
        assert report["receivers_done"] == 2 and report["sent_bytes"] == 0
        assert report["elapsed_s"] > 0.3  # of the second alone, within the limit
        assert room.holds(1) and room.holds(2)


def test_long_packets_go_where_all_carry_them(tmp_path: Path) -> None:
    with Lan(3) as lan:
        lan.allow_jumbo()
        room = Room(lan, tmp_path, 8 * MIB)
        receivers = [room.receive(number) for number in (1, 2)]
        assert room.send(min_receivers=2).result()["receivers_done"] == 2
        for result in [receiver.result() for receiver in receivers]:
            assert result["unicast"] == ""
            assert result["received_bytes"] < 1.01 * 8 * MIB  # 32 bytes in 8,972, and padding
        assert room.holds(1) and room.holds(2)


def test_when_one_way_does_not_carry_long_packets_all_get_usual_ones_by_the_cast(tmp_path: Path) -> None:
    with Lan(4) as lan:
        lan.allow_jumbo()
        lan.set_mtu(lan.hosts[2], 1500)
        room = Room(lan, tmp_path, 8 * MIB)
        receivers = [room.receive(number) for number in (1, 2, 3)]
        report = room.send(min_receivers=3, tells=["shorter"]).result()
        assert report["receivers_done"] == 3 and report["failed"] == {} and report["unicast_bytes"] == 0
        assert report["told"] == [["shorter", lan.hosts[2].ip]]
        for result in [receiver.result() for receiver in receivers]:
            assert result["unicast"] == "" and result["received_bytes"] > 1.02 * 8 * MIB  # 32 bytes in 1,472
        assert all(room.holds(number) for number in (1, 2, 3))


def test_the_interface_bounds_the_packets(tmp_path: Path) -> None:
    with Lan(2) as lan:
        lan.hosts[0].run("ip", "link", "set", INTERFACE, "mtu", "1280")
        room = Room(lan, tmp_path, MIB)
        receiver = room.receive(1)
        assert room.send().result()["receivers_done"] == 1
        assert receiver.result()["unicast"] == ""
        assert room.holds(1)
