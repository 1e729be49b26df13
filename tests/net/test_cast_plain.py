"""Casts on the plain path: a receiver whose card joins no packets, and strangers who send to its data port."""

import random
import socket
import threading
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from test_cast_file import MIB, Room

pytestmark = pytest.mark.root

GROUP, DATA_PORT = "239.77.5.6", 7711


class Stranger:
    """Sends datagrams of all lengths to the data port, a hundred each few milliseconds, until its block is left."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0

    def __enter__(self) -> "Stranger":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _send(self) -> None:
        chance = random.Random(1)
        junk = [chance.randbytes(chance.choice((0, 1, 40, 1200, 1472, 3000))) for _ in range(100)]
        while not self._ended.wait(0.005):
            for datagram in junk:
                self._socket.sendto(datagram, (GROUP, DATA_PORT))
            self.sent += len(junk)


@pytest.mark.parametrize("loss", [0, 1])
def test_a_receiver_whose_card_joins_no_packets_gets_the_same_file(tmp_path: Path, loss: float) -> None:
    with Lan(2, loss_percent=loss) as lan:
        lan.hosts[1].run("ethtool", "-K", INTERFACE, "gro", "off")
        room = Room(lan, tmp_path, 24 * MIB + 5)
        receiver = room.receive(1)
        assert room.send().result()["receivers_done"] == 1
        assert bool(receiver.result()["repair_packets"]) == bool(loss)
        assert room.holds(1)


@pytest.mark.parametrize("gro", ["on", "off"])
def test_what_strangers_send_to_the_data_port_costs_no_data(tmp_path: Path, gro: str) -> None:
    with Lan(3) as lan:
        lan.hosts[1].run("ethtool", "-K", INTERFACE, "gro", gro)
        room = Room(lan, tmp_path, 24 * MIB)
        receiver = room.receive(1)
        with Stranger(lan.hosts[2]) as stranger:
            assert room.send(group=GROUP, max_bitrate_bps=200_000_000).result()["receivers_done"] == 1
        report = receiver.result()
        assert stranger.sent > 1000
        assert report["lost_packets"] == 0
        assert room.holds(1)
