"""`vm-lab/bench cast` with real agents that lose their process, their sender or their network, and go on."""

import os
import signal
import time
from collections.abc import Callable, Iterator

from classroom.agents import MIB, AgentRoom
from classroom.bench import failure
from classroom.cast_room import CastRoom
from classroom.errors import LabError
from classroom.figures import Failure, Figure
from classroom.memory_watch import MemoryWatch
from classroom.run import Run, inside
from classroom.slow_disk import slow_disk
from imager.errors import ToolError
from imager.multicast.memory import DEFAULT_BYTES
from imager.programs import run

IMAGE_BYTES = 128 * MIB
RATE = "100m"
MACHINES = 2
TROUBLE_AT = 0.3
"""Of the image."""
AWAY_S = 30.0
MOST_AGAIN_PERCENT = 10.0
SLOW_DISK_IMAGE_BYTES = 272 * MIB
"""More than a receiver may keep in memory."""
DISK_BYTES_S = 5_000_000
_PATIENCE_S = 180.0


def bench_returns(lab: Run) -> Iterator[Figure | Failure]:
    """What is sent more than once in a session: beyond the image, and beyond what passed a machine that was away."""
    for name, trouble in (
        ("a receiver killed", _kill_a_receiver),
        ("the sender killed", _kill_the_sender),
        (f"a partition of {AWAY_S:.0f} s", _part),
    ):
        name = f"cast, {name}, sent again, {IMAGE_BYTES // MIB} MiB"
        try:
            again, told = _sent_again(lab, trouble)
        except (LabError, ToolError) as error:
            yield failure(name, error)
            continue
        yield Figure(name, 100 * again, " %", MOST_AGAIN_PERCENT, is_least=False, peer=told, digits=1)


def _sent_again(lab: Run, trouble: Callable[[CastRoom, AgentRoom], int]) -> tuple[float, str]:
    """A share of the image, and a word for the line. Raises LabError when a machine does not get its image."""
    with (
        CastRoom(lab, f"away{time.monotonic_ns() % 10**6}", MACHINES) as room,
        AgentRoom(lab, room, IMAGE_BYTES) as agents,
    ):
        for machine in agents.machines:
            agents.start_agent(machine)
        before = room.sent_bytes()
        agents.deploy("--max-bitrate", RATE)
        agents.until_share(TROUBLE_AT, _PATIENCE_S)
        missed = trouble(room, agents)
        agents.until_done(_PATIENCE_S)
        sent = room.sent_bytes() - before
    told = "all complete" + (f"; {missed / 1e6:.0f} MB passed it" if missed else "")
    return (sent - missed) / agents.needed_bytes - 1, told


def _kill_a_receiver(room: CastRoom, agents: AgentRoom) -> int:
    """And start it anew, as a machine that was switched off does. Bytes that passed it meanwhile."""
    machine = agents.machines[-1]
    namespace = room.receivers[machine.number - 1]
    for process in run(["ip", "netns", "pids", namespace]).split():
        os.kill(int(process), signal.SIGKILL)
    before = room.sent_bytes()
    agents.start_agent(machine)
    agents.until(lambda: agents.has_joined(machine), _PATIENCE_S, "a machine that was killed joins again")
    return room.sent_bytes() - before


def _kill_the_sender(_: CastRoom, agents: AgentRoom) -> int:
    (sender,) = agents.senders()
    os.kill(sender, signal.SIGKILL)
    return 0


def _part(room: CastRoom, _: AgentRoom) -> int:
    """Nobody hears anybody."""
    for way in ("down", "up"):
        for port in room.ports:
            run(["ip", "-n", room.switch, "link", "set", port, way])
        if way == "down":
            time.sleep(AWAY_S)
    return 0


def bench_memory(lab: Run) -> Iterator[Figure]:
    """A receiver whose disk is slower by far than its network: the image waits at the sender, not in memory."""
    with CastRoom(lab, "memory", 1) as room, AgentRoom(lab, room, SLOW_DISK_IMAGE_BYTES) as agents:
        (machine,) = agents.machines
        with slow_disk(machine.disk.with_suffix(".backing"), SLOW_DISK_IMAGE_BYTES, DISK_BYTES_S) as slow:
            machine.disk = slow.device
            agent = agents.start_agent(machine, lambda words: slow.command(*words))
            with MemoryWatch(agent.pid, inside(room.receivers[0])) as memory:
                agents.deploy()
                agents.until_done(_PATIENCE_S)
            agent.end()  # before its disk goes away
    name = f"cast to a disk of 5 MB/s, memory, {SLOW_DISK_IMAGE_BYTES // MIB} MiB"
    yield Figure(name, memory.most_bytes / MIB, " MiB", DEFAULT_BYTES / MIB, is_least=False, each_run=True)
