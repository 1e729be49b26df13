"""What `vm-lab/bench cast` makes of programs that come to their end, come to none, and stay when they are done."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from classroom import cast_peers, timed_process
from classroom.cast_peers import TRIES, Tool, cast, cast_peer
from classroom.cast_room import CastRoom
from classroom.errors import LabError
from classroom.run import Run

pytestmark = pytest.mark.root

_RECEIVE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 9))
data = sock.recv(2000)
open(sys.argv[1], "wb").write(data)
"""
_SEND = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for address in sys.argv[3:]:
    sock.sendto(open(sys.argv[1], "rb").read(), (address, 9))
time.sleep(float(sys.argv[2]))
"""


def a_tool(stays_s: float, receivers: int) -> Tool:
    """One datagram to so many receivers of the room; its sender stays, and does not hear a polite signal."""

    def send(source: Path, _: int) -> list[str]:
        addresses = [CastRoom.receiver_address(number) for number in range(1, receivers + 1)]
        return [sys.executable, "-c", _SEND, str(source), str(stays_s), *addresses]

    return Tool("plain", send, lambda output, _: [sys.executable, "-c", _RECEIVE, str(output)])


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(timed_process, "GRACE_S", 0.1)
    with Run(tmp_path) as lab:
        yield lab


@pytest.fixture
def room(lab: Run) -> Iterator[CastRoom]:
    with CastRoom(lab, "room", 2) as room:
        yield room


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.write_bytes(b"what is cast")
    return source


def test_a_sender_that_stays_when_all_hold_the_file_may_have_done_its_work(
    lab: Run, room: CastRoom, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cast_peers, "STAYS_S", 0.2)
    tool = a_tool(stays_s=600, receivers=2)
    done = cast(lab, room, replace(tool, sender_may_stay=True), source)
    assert len(done.seconds_each) == 2 and done.sender_cpu_s > 0 and done.receiver_cpu_s > 0
    with pytest.raises(LabError, match="did not end within"):
        cast(lab, room, tool, source)


@pytest.mark.parametrize(
    ("stays_s", "within_s", "reason"),
    [(600, 1.5, "1 of 2 were not done after 2 s"), (0, 60, "its sender ended, and 1 of its receivers wait for more")],
)
def test_a_peer_that_never_comes_to_its_end_is_tried_again_and_then_left(
    lab: Run,
    room: CastRoom,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stays_s: float,
    within_s: float,
    reason: str,
) -> None:
    monkeypatch.setattr(cast_peers, "LEFT_S", 0.2)
    assert cast_peer(lab, room, a_tool(stays_s, receivers=1), source, within_s) is None
    assert capsys.readouterr().err.count(reason) == TRIES
