"""An appliance and agents in the namespaces of a CastRoom: an image deployed to machines that go away and come back."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from classroom.cast_peers import HEADERS, ROOMCAST
from classroom.cast_room import INTERFACE, SENDER_ADDRESS, CastRoom
from classroom.errors import LabError
from classroom.memory_watch import children
from classroom.processes import last_lines
from classroom.run import Run
from classroom.timed_process import TimedProcess
from imager.programs import run as run_program
from netboot.cli.client import ApplianceClient

MIB = 1 << 20
START_S = 60.0
_POLL_S = 0.1
_COMMAND_S = 300.0


@dataclass(slots=True)
class Machine:
    """One agent and its disk."""

    number: int
    """Of the receivers, from 1."""
    disk: Path
    log: Path
    told_before: int = 0
    """Characters of its log that are of an agent before this one."""


class AgentRoom:
    """A context manager: the room's sender is the appliance, its receivers are machines with blank disks.

    The image does not compress, so that what is sent of it can be counted.
    """

    def __init__(self, lab: Run, room: CastRoom, image_bytes: int) -> None:
        self._room = room
        self._logs = lab.logs
        self._directory = lab.directory / f"agents-{time.monotonic_ns()}"
        self._stack = ExitStack()
        self.image = self._directory / "golden.img"
        self.image_bytes = image_bytes
        self.machines = [
            Machine(number, self._directory / f"disk-{number}", self._logs / f"{self._directory.name}-{number}.log")
            for number in range(1, len(room.receivers) + 1)
        ]
        self._appliance: TimedProcess | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir()
        chance = random.Random(self.image_bytes)
        with self.image.open("wb") as file:
            for _ in range(self.image_bytes // MIB):
                file.write(chance.randbytes(MIB))
        try:
            self._start_appliance()
            self._roomcast("image", "capture", str(self.image), "--name", "golden")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    # the appliance

    @property
    def _environment(self) -> dict[str, str]:
        return {"ROOMCAST_DATA": str(self._directory / "data"), "ROOMCAST_SOCKET": str(self._directory / "api.sock")}

    def _start_appliance(self) -> None:
        """Returns when it answers."""
        log = self._logs / f"{self._directory.name}-appliance-{time.monotonic_ns()}.log"
        words = [str(ROOMCAST), "serve", "--interface", INTERFACE]
        served = TimedProcess(self._room.sender, words, log, self._stack, self._environment)
        self.until(lambda: served.look() or "Ctrl-C ends it" in log.read_text(), START_S, "the appliance answers")
        self._appliance = served

    def senders(self) -> list[int]:
        """The appliance's processes that cast."""
        assert self._appliance is not None, "used outside of its context"
        return [child for child in children(self._appliance.pid) if b"send_process" in _command_line(child)]

    def _roomcast(self, *words: str) -> None:
        """Raises LabError when the command fails."""
        done = subprocess.run(
            [ROOMCAST, *words],
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if done.returncode:
            raise LabError(f"`roomcast {' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")

    def deploy(self, *options: str) -> None:
        """Returns at once."""
        self._roomcast("deploy", "golden", "--to", "all", *options)

    def session(self) -> Any:
        with ApplianceClient(self._directory / "api.sock") as appliance:
            return appliance.get("/api/v1/sessions/1")

    # the machines

    def start_agent(
        self, machine: Machine, on_disk: Callable[[Sequence[str]], Sequence[str]] = lambda words: words
    ) -> TimedProcess:
        """Returns when it has registered. `on_disk` may change the command line."""
        if not machine.disk.exists():
            machine.disk.touch()
            os.truncate(machine.disk, self.image_bytes)
        namespace = self._room.receivers[machine.number - 1]
        (link,) = json.loads(run_program(["ip", "-n", namespace, "-json", "link", "show", "dev", INTERFACE]))
        words = [
            f"http://{SENDER_ADDRESS}",
            str(machine.disk),
            link["address"],
            self._room.receiver_address(machine.number),
        ]
        machine.told_before = len(machine.log.read_text()) if machine.log.exists() else 0
        agent = TimedProcess(
            namespace, on_disk([sys.executable, "-m", "classroom.agent_program", *words]), machine.log, self._stack
        )
        self.until(
            lambda: agent.look() or "registered as" in machine.log.read_text()[machine.told_before :],
            START_S,
            "an agent registers",
        )
        return agent

    def has_joined(self, machine: Machine) -> bool:
        """Whether an agent has read its disk since it was started."""
        return "the disk lacks" in machine.log.read_text()[machine.told_before :]

    def until(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        """Raises LabError when it does not come about."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                told = "\n".join(last_lines(machine.log, 3) for machine in self.machines)
                raise LabError(f"{what}: not within {within_s:.0f} s", told)
            time.sleep(_POLL_S)

    def until_share(self, share: float, within_s: float) -> None:
        """Until every machine has so much of the image on its disk."""
        wanted = share * self.image_bytes / MIB

        def reached() -> bool:
            progress = [task["progress"] or {} for task in self.session()["tasks"]]
            return all(each.get("chunks_done", 0) >= wanted for each in progress)

        self.until(reached, within_s, f"{100 * share:.0f} % of the image on every disk")

    def until_done(self, within_s: float) -> None:
        """Raises LabError when a machine has not succeeded, or its disk is another."""
        self.until(lambda: self.session()["state"] in ("done", "failed"), within_s, "the session ends")
        states = [task["state"] for task in self.session()["tasks"]]
        if set(states) != {"succeeded"}:
            raise LabError(f"not every machine has its image: {', '.join(states)}")
        for machine in self.machines:
            run_program(["cmp", self.image, machine.disk])

    @property
    def needed_bytes(self) -> float:
        """Frames for the image."""
        return self.image_bytes * HEADERS


def _command_line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
