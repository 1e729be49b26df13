"""Casts over a line that damages, doubles and delays, beside strangers who forge and replay: nobody is the worse."""

import contextlib
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from netns import Host, Lan
from test_cast_file import MIB, Room, until

from imager.transport.endpoint import GroupReceiver, GroupSender
from imager.wire.announce import Announce, parse_announce
from imager.wire.groups import DISCOVERY_GROUP
from imager.wire.packets import DATA_HEADER, Head, build_head, first_byte_pair
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, SYMBOL_BYTES, Kind

pytestmark = pytest.mark.root

GROUP, PORT = "239.77.5.6", 7710
RATE_BPS = 80_000_000
PROGRAM = Path(__file__).with_name("bad_line.py")
NACKS_A_SECOND = 10_000


@contextlib.contextmanager
def a_bad_line(lan: Lan, host: Host, log: Path) -> Iterator[None]:
    """The host's cable, but for its bridge end, is a bad line."""
    bridge = lan.bridge
    for command in (
        f"ip link set {host.port} nomaster",
        "ip link add near type veth peer name inner",
        "ethtool -K near tso off gro off tx off",
        "ethtool -K inner tso off gro off tx off",
        f"ethtool -K {host.port} gro off",
        "ip link set near master br0",
        "ip link set near up",
        "ip link set inner up",
    ):
        bridge.run(*shlex.split(command))
    with log.open("wb") as output:
        bridge.popen(sys.executable, str(PROGRAM), "inner", host.port, "1", output=output.fileno())
    until(lambda: "ready" in log.read_text())
    yield


def announced(host: Host) -> Announce:
    """What a sender of this network says of itself."""
    with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((DISCOVERY_GROUP, PORT))
        member = socket.inet_aton(DISCOVERY_GROUP) + socket.inet_aton(host.ip)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.settimeout(20)
        return parse_announce(sock.recv(2048))


class Stranger:
    """Forges and replays from a host of its own, until its block is left."""

    def __init__(self, host: Host, sender: Host, announce: Announce) -> None:
        self._announce = announce
        self._ended = threading.Event()
        self.forged = self.replayed = self.nacks = 0
        with host.entered():
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._control.connect((sender.ip, announce.control_port))
            self._heard = GroupReceiver(GROUP, announce.data_port, host.ip)
            self._data = GroupSender(GROUP, announce.data_port, host.ip, 1)
        self._threads = [threading.Thread(target=work) for work in (self._forge_nacks, self._forge_and_replay)]

    def __enter__(self) -> "Stranger":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for sock in (self._control, self._heard, self._data):
            sock.close()

    def _forge_nacks(self) -> None:
        """NACKs of receivers that are there, from counters that they have not reached."""
        began, sent = time.monotonic(), 0
        while not self._ended.wait(0.005):
            due = int((time.monotonic() - began) * NACKS_A_SECOND)
            for number in range(sent, due):
                head = build_head(Head(Kind.NACK, 1 + number % 3, self._announce.session, 2**40 + number))
                with contextlib.suppress(OSError):
                    self._control.send(head + bytes(200))
            sent = max(sent, due)
        self.nacks = sent

    def _forge_and_replay(self) -> None:
        """What was heard, again and again; and packets of its own that claim what comes next."""
        forged = np.zeros((20, PACKET_BYTES), np.uint8)
        headers = forged[:, :HEADER_BYTES].view(DATA_HEADER)[:, 0]
        headers["magic"], headers["kind"] = first_byte_pair(Kind.SOURCE)
        headers["session"] = self._announce.session
        while not self._ended.wait(0.02):
            heard = self._heard.receive().copy()
            if len(heard):
                last = heard[-1:, :HEADER_BYTES].copy().view(DATA_HEADER)[0, 0]
                headers["number"] = int(last["number"]) + np.arange(20)
                headers["sequence"] = int(last["sequence"]) + np.arange(20)
                for batch in (heard[:40], forged):
                    self._data.send(np.ascontiguousarray(batch))
                self.replayed += len(heard[:40])
                self.forged += len(forged)


def test_a_bad_line_and_strangers_cost_repair_and_nothing_else(tmp_path: Path) -> None:
    with Lan(3, checksum_offload=False) as lan, a_bad_line(lan, lan.hosts[1], tmp_path / "line.log"):
        room = Room(lan, tmp_path, 24 * MIB + 7)
        sending = room.send(group=GROUP, max_bitrate_bps=RATE_BPS)
        announce = announced(lan.hosts[2])
        receiver = room.receive(1)
        with Stranger(lan.hosts[2], lan.hosts[0], announce) as stranger:
            report = sending.result()
        received = receiver.result()
        assert report["receivers_done"] == 1 and report["failed"] == {}
        assert room.holds(1)
        needed = report["file_bytes"] * PACKET_BYTES / SYMBOL_BYTES
        assert report["sent_bytes"] <= 1.1 * needed
        assert received["repair_packets"] > 0, "the line damaged nothing"
        assert min(stranger.forged, stranger.replayed) > 500
        assert stranger.nacks > NACKS_A_SECOND
