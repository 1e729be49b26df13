"""Real agents in a session whose sender, appliance, machines or network go away in the middle of it and come back."""

import contextlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from netns import Host, Lan
from test_appliance_serve import Served, serving

pytestmark = pytest.mark.root

PROGRAM = ("-m", "classroom.agent_program")
VM_LAB = Path(__file__).parents[2] / "vm-lab"
MIB = 1 << 20
HEADERS = 1.06
"""Frames to bytes of the image, and what agents and appliance say by HTTP."""
SENT_AGAIN = 1.1
"""Bytes that leave the appliance at most, for each that has to."""


def children(process: int, name: str) -> list[int]:
    """Children of a process that have this word on their command line."""
    found = [
        child for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [int(child) for child in found if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]


@dataclass
class Room:
    """Machines with empty disks, and an image that does not compress."""

    directory: Path
    lan: Lan
    image: Path
    logs: dict[int, Path] = field(default_factory=dict)
    agents: dict[int, int] = field(default_factory=dict)
    """Their processes."""
    served: Served | None = None

    @property
    def machines(self) -> list[Host]:
        return self.lan.hosts[1:]

    def disk(self, machine: Host) -> Path:
        return self.directory / f"disk-{machine.number}"

    @contextlib.contextmanager
    def appliance(self) -> Iterator[Served]:
        with serving(self.lan.hosts[0], self.directory / "appliance") as self.served:
            yield self.served

    def start_agent(self, machine: Host) -> None:
        """Returns when it has registered."""
        disk, log = self.disk(machine), self.directory / f"agent-{machine.number}.log"
        if not disk.exists():
            disk.touch()
            os.truncate(disk, self.image.stat().st_size)
        words = (*PROGRAM, f"http://{self.lan.hosts[0].ip}", str(disk), machine.mac, machine.ip)
        with log.open("wb") as output:
            environment = {**os.environ, "PYTHONPATH": str(VM_LAB)}
            agent = machine.popen(sys.executable, *words, output=output.fileno(), env=environment)
        self.logs[machine.number], self.agents[machine.number] = log, agent.pid
        self.until(lambda: "registered as" in log.read_text())

    def said(self, machine: Host) -> str:
        return self.logs[machine.number].read_text()

    def until(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "\n".join(log.read_text() for log in self.logs.values())
            time.sleep(0.1)

    def deploy(self, *options: str) -> None:
        assert self.served is not None
        done = self.served.roomcast("deploy", "golden", "--to", "all", *options)
        assert done.returncode == 0, done.stderr

    def session(self) -> Any:
        assert self.served is not None
        return self.served.json("session", "show")

    def until_share(self, share: float) -> None:
        """Until every machine has so much of the image."""

        def reached() -> bool:
            progress = [task["progress"] or {} for task in self.session()["tasks"]]
            return all(each.get("chunks_done", 0) >= share * MIB_COUNT for each in progress)

        self.until(reached)

    def until_done(self, within_s: float = 90) -> None:
        self.until(lambda: self.session()["state"] in ("done", "failed"), within_s)
        tasks = {task["machine"]: task["state"] for task in self.session()["tasks"]}
        assert set(tasks.values()) == {"succeeded"}, (tasks, *(log.read_text() for log in self.logs.values()))
        for machine in self.machines:
            assert self.disk(machine).read_bytes() == self.image.read_bytes()

    @property
    def sent_share(self) -> float:
        """Bytes that left the appliance, for each byte that had to."""
        return self.lan.hosts[0].statistic("tx bytes") / (HEADERS * self.image.stat().st_size)


MIB_COUNT = 40


@contextlib.contextmanager
def a_room(directory: Path, machines: int) -> Iterator[Room]:
    image = directory / "golden.img"
    image.write_bytes(random.Random(1).randbytes(MIB_COUNT * MIB))
    with Lan(1 + machines) as lan:
        yield Room(directory, lan, image)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with a_room(tmp_path, machines=2) as room:
        yield room


def prepare(room: Room, *options: str) -> None:
    assert room.served is not None
    assert room.served.roomcast("image", "capture", str(room.image), "--name", "golden").returncode == 0
    for machine in room.machines:
        room.start_agent(machine)
    room.deploy(*options)


def test_a_session_goes_on_when_its_sender_is_killed_and_then_the_whole_appliance(room: Room) -> None:
    with room.appliance() as served:
        prepare(room, "--max-bitrate", "60m")
        room.until_share(0.2)
        (sender,) = children(served.process.pid, "send_process")
        os.kill(sender, signal.SIGKILL)
        room.until(lambda: children(served.process.pid, "send_process") not in ([], [sender]))
        told = [event["text"] for event in room.session()["events"]]
        assert any("waits for a sender: the one before died" in text for text in told), told
        room.until_share(0.5)
        served.process.kill()
        served.process.wait(20)
    with room.appliance():
        room.until_done()
    assert room.sent_share < SENT_AGAIN
    for machine in room.machines:
        assert "the sender of this cast is gone; asking the appliance again" in room.said(machine)
        assert "(Connection refused); waiting for it" in room.said(machine)
        assert "the appliance answers again" in room.said(machine)


def test_a_machine_whom_multicast_stops_reaching_says_so_and_fetches_the_rest(room: Room) -> None:
    cut_off, hears = room.machines
    with room.appliance():
        prepare(room, "--max-bitrate", "60m")
        room.until_share(0.3)
        room.lan.filter_group(cut_off, "239.77.0.0/16")
        cut = time.monotonic()
        room.until(lambda: any("which it fetches by unicast" in each["text"] for each in room.session()["events"]), 20)
        assert time.monotonic() - cut < 20
        room.until_done()
        fetched = room.session()["statistics"]["unicast_bytes"]
    assert fetched < 0.75 * room.image.stat().st_size, "what it held was sent again"
    assert "none of its multicast packets arrived any more for 8 s" in room.said(cut_off)
    assert "asking the appliance" not in room.said(hears)


@pytest.mark.long
def test_a_network_that_is_away_for_half_a_minute_costs_nobody_the_image(room: Room) -> None:
    with room.appliance():
        prepare(room, "--max-bitrate", "20m")
        room.until_share(0.3)
        for machine in room.machines:
            room.lan.set_cable(machine, False)
        time.sleep(30)
        for machine in room.machines:
            room.lan.set_cable(machine, True)
        room.until_done()
    assert room.sent_share < SENT_AGAIN


def test_a_machine_that_is_killed_gets_what_its_disk_lacks(tmp_path: Path) -> None:
    """As by a power cut: nobody says good-bye for it. In a room it would get what it missed after the others."""
    with a_room(tmp_path, machines=1) as room, room.appliance():
        (machine,) = room.machines
        prepare(room, "--max-bitrate", "30m")
        room.until_share(0.3)
        room.lan.set_cable(machine, False)
        for receiving in children(room.agents[machine.number], "receive_process"):
            os.kill(receiving, signal.SIGKILL)
        os.kill(room.agents[machine.number], signal.SIGKILL)
        room.lan.set_cable(machine, True)
        room.start_agent(machine)
        room.until_done()
        found = re.search(r"the disk lacks (\d+) of 40 chunks", room.said(machine))
        assert found and int(found[1]) <= 0.7 * MIB_COUNT
        assert room.sent_share < SENT_AGAIN


@pytest.mark.long
def test_a_machine_whose_cable_was_out_for_half_a_minute_is_not_waited_for_and_gets_the_rest(room: Room) -> None:
    away, stays = room.machines
    with room.appliance():
        prepare(room, "--max-bitrate", "20m")
        room.until_share(0.3)
        room.lan.set_cable(away, False)
        pulled = time.monotonic()
        room.until(lambda: any("is slow, and gets the rest after" in each["text"] for each in room.session()["events"]))
        assert time.monotonic() - pulled < 10
        time.sleep(max(0.0, 30 - (time.monotonic() - pulled)))
        room.lan.set_cable(away, True)
        room.until_done()
    assert room.sent_share < 1.8
    assert "asking the appliance again" not in room.said(stays)
