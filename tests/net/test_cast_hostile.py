"""Casts over a line that damages, doubles and delays, beside strangers who forge and replay: nobody is the worse."""

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from classroom.bad_line import splice_commands
from classroom.stranger import NACKS_A_SECOND
from netns import Host, Lan
from test_cast_file import MIB, Room, until

from imager.wire.session import PACKET_BYTES, SYMBOL_BYTES

pytestmark = pytest.mark.root

RATE_BPS = 80_000_000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "vm-lab")}


@contextlib.contextmanager
def a_bad_line(lan: Lan, host: Host, log: Path) -> Iterator[None]:
    """The host's cable, but for its bridge end, is a bad line."""
    bridge = lan.bridge
    for command in splice_commands(host.port, "br0"):
        bridge.run(*shlex.split(command))
    with log.open("wb") as output:
        words = ("-m", "classroom.bad_line", "1", "inner", host.port, "cast")
        bridge.popen(sys.executable, *words, output=output.fileno(), env=ENVIRONMENT)
    until(lambda: "ready" in log.read_text())
    yield


@contextlib.contextmanager
def a_stranger(host: Host, sender: Host, log: Path) -> Iterator[None]:
    """Who forges and replays what belongs to a cast, until the block is left; then what he sent is in the log."""
    with log.open("wb") as output:
        words = ("-m", "classroom.stranger", sender.ip, host.ip)
        stranger = host.popen(sys.executable, *words, output=output.fileno(), env=ENVIRONMENT)
    yield
    stranger.terminate()
    stranger.wait(20)


def test_a_bad_line_and_strangers_cost_repair_and_nothing_else(tmp_path: Path) -> None:
    with Lan(3, checksum_offload=False) as lan, a_bad_line(lan, lan.hosts[1], tmp_path / "line.log"):
        room = Room(lan, tmp_path, 24 * MIB + 7)
        with a_stranger(lan.hosts[2], lan.hosts[0], tmp_path / "stranger.log"):
            sending = room.send(max_bitrate_bps=RATE_BPS)
            receiver = room.receive(1)
            report = sending.result()
        received = receiver.result()
        assert report["receivers_done"] == 1 and report["failed"] == {}
        assert room.holds(1)
        needed = report["file_bytes"] * PACKET_BYTES / SYMBOL_BYTES
        assert report["sent_bytes"] <= 1.1 * needed
        assert received["repair_packets"] > 0, "the line damaged nothing"
        stranger = json.loads((tmp_path / "stranger.log").read_text())
        assert min(stranger["forged"], stranger["replayed"]) > 500
        assert stranger["nacks"] > NACKS_A_SECOND
