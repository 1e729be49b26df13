"""A real agent whose disk is slower by far than its network: its memory stays bounded, and what a disk holds stays."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classroom.memory_watch import MemoryWatch, children
from classroom.slow_disk import slow_disk
from netns import Lan
from test_appliance_serve import serving

from imager.multicast.memory import DEFAULT_BYTES

pytestmark = pytest.mark.root

PROGRAM = ("-m", "classroom.agent_program")
VM_LAB = Path(__file__).parents[2] / "vm-lab"
MIB = 1 << 20


class Room:
    """An appliance with an image that does not compress, and a machine whose disk is slow."""

    def __init__(self, directory: Path, image_mib: int, disk_bytes_s: int) -> None:
        self._directory = directory
        self._disk_bytes_s = disk_bytes_s
        self._image = directory / "golden.img"
        self._log = directory / "agent.log"
        chance = random.Random(image_mib)
        with self._image.open("wb") as file:
            for _ in range(image_mib):
                file.write(chance.randbytes(MIB))

    def __enter__(self) -> "Room":
        with contextlib.ExitStack() as stack:
            lan = stack.enter_context(Lan(2))
            self.server, self.machine = lan.hosts
            self.served = stack.enter_context(serving(self.server, self._directory / "appliance"))
            size = self._image.stat().st_size
            self._slow = stack.enter_context(slow_disk(self._directory / "disk", size, self._disk_bytes_s))
            assert self.served.roomcast("image", "capture", str(self._image), "--name", "golden").returncode == 0
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_agent(self) -> subprocess.Popen[bytes]:
        """Returns when it has registered."""
        words = (*PROGRAM, f"http://{self.server.ip}", str(self._slow.device), self.machine.mac, self.machine.ip)
        with self._log.open("wb") as log:
            command = self._slow.command(sys.executable, *words)
            agent = self.machine.popen(*command, output=log.fileno(), env={**os.environ, "PYTHONPATH": str(VM_LAB)})
        self.until(lambda: "registered as" in self._log.read_text())
        return agent

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def deploy(self) -> None:
        """Returns at once."""
        done = self.served.roomcast("deploy", "golden", "--to", "all")
        assert done.returncode == 0, done.stderr

    def task(self) -> Any:
        return self.served.json("session", "show")["tasks"][0]

    def wait(self) -> None:
        """Until the machine has the image."""
        done = self.served.roomcast("session", "show", "--watch")
        assert self.task()["state"] == "succeeded", done.stdout + done.stderr + self._log.read_text()
        subprocess.run(["cmp", self._image, self._slow.device], check=True)

    @property
    def sent_share(self) -> float:
        """Bytes to the group, for each byte of the image."""
        sent: int = self.served.json("session", "show")["statistics"]["sent_bytes"]
        return sent / self._image.stat().st_size


def test_a_slow_disk_behind_a_fast_line_costs_no_more_memory_than_is_allowed(tmp_path: Path) -> None:
    with Room(tmp_path, image_mib=128, disk_bytes_s=60_000_000) as room:
        with MemoryWatch(room.start_agent().pid, room.machine.command()) as memory:
            room.deploy()
            room.wait()
        assert memory.samples > 20
        assert memory.most_bytes <= DEFAULT_BYTES
        assert room.sent_share < 1.3


@pytest.mark.long
def test_an_image_larger_than_the_memory_arrives_on_a_disk_of_5_mb_a_second(tmp_path: Path) -> None:
    with Room(tmp_path, image_mib=400, disk_bytes_s=5_000_000) as room:
        with MemoryWatch(room.start_agent().pid, room.machine.command()) as memory:
            room.deploy()
            room.wait()
        assert memory.most_bytes <= DEFAULT_BYTES
        assert room.sent_share < 1.1


def test_a_machine_killed_while_it_writes_gets_no_chunk_again_that_was_proven(tmp_path: Path) -> None:
    with Room(tmp_path, image_mib=32, disk_bytes_s=16_000_000) as room:
        agent = room.start_agent()
        room.deploy()
        room.until(lambda: ((room.task()["progress"] or {}).get("chunks_done") or 0) >= 8)
        for process in (agent.pid, *children(agent.pid)):
            os.kill(process, signal.SIGKILL)
        room.start_agent()
        room.wait()
        assert room.task()["proof"]["chunks_skipped"] >= 8
