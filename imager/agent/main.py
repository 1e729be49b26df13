"""The agent: what runs on a machine that booted from the network. Composition root of `python3 -m imager.agent.main`.

Registers, takes tasks one after the other, does them, tells how they ended. A failing task never ends the agent: it
reports and waits for the next. What a task needs is imported when the first one is near: numpy and its like take
seconds on a slow machine, and a machine without a task should be seen at once.
"""

import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imager.agent import restart
from imager.agent.client import ApplianceClient, Refused, TaskGone
from imager.agent.console import Console, open_consoles
from imager.agent.inventory import Link, describe_size, read_disks, read_inventory
from imager.agent.panel import PanelState, describe_duration
from imager.agent.progress import Meter
from imager.agent.tasks import TaskContext
from imager.errors import ApplianceError, ImagerError
from imager.wire.messages import (
    After,
    Inventory,
    Proof,
    Registration,
    Task,
    TaskKind,
    TaskResult,
)

WAIT_S = 25.0
"""Of one question for a task."""
REPORT_EVERY_S = 1.0
"""Progress on the console and to the appliance, whose patience is 5 s."""
RESTART_PAUSE_S = 3.0
"""How long the screen shows that a task is done before the machine restarts."""
END_TAKES_S = 30.0
"""The kernel ends the machine meanwhile."""
LOG_LINES_SENT = 40


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the appliance wrote on the kernel's command line."""

    server: str
    public_key: bytes | None


def parse_arguments(command_line: str) -> Arguments:
    """Raises ApplianceError that says what is wrong."""
    words = dict(word.partition("=")[::2] for word in command_line.split() if word.startswith("roomcast."))
    key = words.get("roomcast.key", "")
    try:
        public_key = bytes.fromhex(key) if key else None
    except ValueError:
        public_key = b""
    if public_key is not None and len(public_key) != 32:
        raise ApplianceError("roomcast.key on the kernel command line is not 64 hexadecimal digits")
    if "roomcast.server" not in words:
        raise ApplianceError("roomcast.server=http://ADDRESS:PORT is missing on the kernel command line")
    return Arguments(words["roomcast.server"], public_key)


class Agent:
    """One machine's life between power-on and its own system."""

    def __init__(
        self,
        client: ApplianceClient,
        console: Console,
        inventory: Callable[[], Inventory],
        public_key: bytes | None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._console = console
        self._inventory = inventory
        self._public_key = public_key
        self._clock = clock
        self._pause = pause

    def register(self) -> Registration:
        """Until the appliance knows us."""
        registration = self._client.register()
        found = self._inventory()
        self._console.show(machine=registration.name, headline="Waiting for a task", detail="")
        self._console.say(f"registered as {registration.name} after {found.boot_s:.1f} s")
        return registration

    def run_once(self) -> bool:
        """Ask for a task and do it. False when there was none, or it was one that only restarts the machine."""
        task = self._client.next_task(WAIT_S)
        if task.kind is TaskKind.BOOT_LOCAL:
            self._console.say("the appliance says: start from the disk")
            if task.boot_next and not self._start_disk_next():
                return False
            self._leave(After.REBOOT)
            return False
        if task.kind is TaskKind.DEPLOY and task.deploy is not None:
            deploy = task.deploy
            self._do(task, deploy.after, f"Deploying {deploy.image} version {deploy.version}", self._deploy)
            return True
        if task.kind is TaskKind.CAPTURE and task.capture is not None:
            self._do(task, task.capture.after, f"Capturing this disk as {task.capture.image}", self._capture)
            return True
        return False

    def _start_disk_next(self) -> bool:
        """When it cannot be, the agent waits for a task here rather than in front of a disk that does not start."""
        from imager.agent import next_start

        return next_start.start_disk_next(read_disks(), self._console.say)

    def _deploy(self, task: Task, context: TaskContext) -> Proof | None:
        from imager.agent import deploy

        assert task.deploy is not None
        self._console.show(steps=deploy.STEPS)
        proof = deploy.run_deploy(task.deploy, context)
        if task.deploy.after is After.REBOOT:
            context.meter.begin("reboot")
            try:
                if context.firmware == "uefi":
                    deploy.boot_written_disk(task.deploy, context)
            except (ImagerError, OSError, ValueError) as error:  # the disk is proven: how it starts is the lesser thing
                context.say(f"the firmware was not asked to start this disk: {error}")
        return proof

    def _capture(self, task: Task, context: TaskContext) -> Proof | None:
        from imager.agent import capture

        assert task.capture is not None
        self._console.show(steps=capture.STEPS)
        capture.run_capture(task.capture, context)
        return None

    def _do(self, task: Task, after: After, headline: str, work: Callable[[Task, TaskContext], Proof | None]) -> None:
        found = self._inventory()
        meter = Meter(self._clock)
        context = TaskContext(
            task_id=task.id,
            client=self._client,
            meter=meter,
            say=self._console.say,
            link=Link("", found.boot_mac, found.address),
            firmware=found.firmware,
            disks=read_disks,
            public_key=self._public_key,
            system_uuid=found.system_uuid,
        )
        self._console.show(headline=headline, detail="", failed=False, phases={}, progress=None)
        self._console.say(headline)
        ended = threading.Event()
        reporter = threading.Thread(target=self._report, args=(context, ended), name="report", daemon=True)
        reporter.start()
        error = ""
        proof: Proof | None = None
        gone = False
        try:
            proof = work(task, context)
        except TaskGone as problem:
            gone, error = True, str(problem)
        except (ImagerError, OSError) as problem:
            error = str(problem) or type(problem).__name__
        except Exception as problem:  # a fault of ours: the next task may still be one that we can do
            error = f"the agent has a fault: {type(problem).__name__}: {problem}"
            for line in traceback.format_exc().splitlines():
                self._console.say(line)
        finally:
            ended.set()
            reporter.join()
        self._console.show_progress(meter.snapshot(), meter.phases())
        self._tell(task, error, gone, proof)
        if not error:
            self._leave(after)

    def _tell(self, task: Task, error: str, gone: bool, proof: Proof | None) -> None:
        """The task's end, to the person before the machine and to the appliance."""
        if error:
            self._console.say(f"failed: {error}")
            self._console.show(failed=True, headline="Failed", detail=error)
        else:
            took = describe_duration(sum(proof.phases_s.values())) if proof else ""
            self._console.say(f"done {took}".strip())
            self._console.show(
                headline="Done", detail=f"in {took}; every chunk was read back" if proof else "published"
            )
        if gone:
            return
        result = TaskResult(ok=not error, error=error, log=self._console.log[-LOG_LINES_SENT:], proof=proof)
        try:
            self._client.result(task.id, result)
        except (TaskGone, Refused) as problem:
            self._console.say(f"the appliance took no result: {problem}")

    def _report(self, context: TaskContext, ended: threading.Event) -> None:
        """Show and send progress until `ended`. An appliance that is away does not stop the work."""
        silent = False
        while not ended.wait(REPORT_EVERY_S):
            progress = context.meter.snapshot()
            self._console.show_progress(progress, context.meter.phases())
            try:
                answer = self._client.progress(context.task_id, progress)
                if silent:
                    silent = False
                    context.say("the appliance answers again")
                    self._console.show(detail="")
                # An answer that comes late may be about the cast before.
                if answer.again and context.meter.snapshot().cast == progress.cast:
                    context.cast_over.set()
            except TaskGone:
                context.gone.set()
            except ImagerError as error:
                if not silent:
                    silent = True
                    context.say(f"{error}; waiting for it")
                    self._console.show(
                        detail="The appliance does not answer: this machine waits for it, and goes on with what it has."
                    )

    def _leave(self, after: After) -> None:
        if after is After.STAY:
            self._console.show(headline="Done, waiting for a task")
            return
        self._console.say("restarting" if after is After.REBOOT else "switching off")
        self._pause(RESTART_PAUSE_S)
        restart.reboot() if after is After.REBOOT else restart.power_off()
        self._pause(END_TAKES_S)  # a further question for a task would say that the machine stays


def find_link(interface: str, root: Path = Path("/")) -> Link:
    """The interface that the first process configured. Raises ApplianceError when it has no address any more."""
    import fcntl
    import socket
    import struct

    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, 0x8915, request)  # SIOCGIFADDR, netdevice(7)
        except OSError as error:
            raise ApplianceError(f"{interface} has no IPv4 address: {error.strerror}") from error
    mac = (root / "sys/class/net" / interface / "address").read_text().strip().lower()
    return Link(interface, mac, socket.inet_ntoa(answer[20:24]))


def agent_version(root: Path = Path("/")) -> str:
    """As the build wrote it into the initramfs."""
    try:
        return (root / "etc/roomcast-version").read_text().strip()
    except OSError:
        return "unknown"


def describe_machine(found: Inventory) -> tuple[str, ...]:
    """Lines for the screen's foot."""
    disks = ", ".join(f"{disk.device} {describe_size(disk.size_bytes)} {disk.model}".strip() for disk in found.disks)
    product = " ".join(part for part in (found.manufacturer, found.product) if part) or "unknown machine"
    firmware = found.firmware.upper() + (" with Secure Boot" if found.secure_boot else "")
    return (
        f"{product}, {firmware}",
        f"{found.cpu_count} x {found.cpu_model}, {describe_size(found.memory_bytes)} memory",
        f"{found.address} ({found.boot_mac})",
        f"disks: {disks or 'none'}",
    )


def warm_up() -> None:
    """Import what tasks need, while the machine waits for one."""
    from imager.agent import capture, deploy  # noqa: F401


def main() -> int:
    """Until the machine restarts. Returns a status only when the kernel's command line makes no sense."""

    def uptime_s() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    version = agent_version()
    screens, ports = open_consoles()
    console = Console(screens, ports, PanelState("", version, (), "Looking for the appliance"), clock=uptime_s)
    try:
        arguments = parse_arguments(Path("/proc/cmdline").read_text())
        link = find_link(Path("/run/roomcast-interface").read_text().strip())

        def inventory() -> Inventory:
            return read_inventory(version, link)

        found = inventory()
        where = urllib.parse.urlsplit(arguments.server).netloc
        console.show(facts=describe_machine(found), detail=f"at {where}, as {link.address}")
        client = ApplianceClient(arguments.server, inventory, console.say)
        agent = Agent(client, console, inventory, arguments.public_key)
        agent.register()
    except (ImagerError, OSError) as error:
        console.say(str(error))
        console.show(headline="Cannot work", detail=str(error), failed=True)
        return 1
    threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
    while True:
        try:
            agent.run_once()
        except ImagerError as error:
            console.say(str(error))
            time.sleep(5)


if __name__ == "__main__":
    sys.exit(main())
