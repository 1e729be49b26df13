"""The scenario of the demo and of the lab test: blank machines boot from the network, get one image, and prove it.

Everything that an administrator would do is done by the `roomcast` command line; what it is then shown is read from the
appliance's API.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from classroom import golden_disk
from classroom.builds import ROOMCAST, agent_files
from classroom.errors import LabError
from classroom.firmware import OVMF, SEABIOS, SEABIOS_E1000
from classroom.machine import Machine, MachineSpec
from classroom.network import SERVER_INTERFACE, Classroom, Port
from classroom.processes import BackgroundProcess, descendants, last_lines, run_program
from classroom.proof import ImageFacts, MachineProof, parse_booted
from classroom.run import Run
from classroom.trouble import RATE, Trouble, Troubles
from imager.wire.messages import Proof, decode
from netboot.cli.client import ApplianceClient
from netboot.errors import NetbootError

IMAGE = "golden"
POLL_S = 0.25
SERVE_TIMEOUT_S = 60.0
REGISTER_TIMEOUT_S = 300.0
"""For two machines on two cores; more machines get more."""
DEPLOY_TIMEOUT_S = 900.0
BOOT_TIMEOUT_S = 240.0
CAPTURE_FILTER = "not (udp and dst net 239.0.0.0/8 and greater 1000)"
"""All but the bulk of the cast: hundreds of megabytes of it would hide how a machine boots."""
CAPTURE_BYTES = 512
"""Of each packet: a whole DHCP packet, the start of a file's blocks."""

Say = Callable[[str], None]
"""Told what happens, a line at a time."""
Show = Callable[[dict[str, Any]], None]
"""Shown the session as the API tells it, every time that it was asked for."""


@dataclass(frozen=True, slots=True)
class Options:
    """What classroom to build."""

    bios: int = 1
    uefi: int = 1
    loss_percent: float = 0.0
    pcap: Path | None = None
    trouble: bool = False
    """See trouble.py."""


@dataclass(slots=True)
class _Seat:
    """A machine of the classroom with what is known of it so far."""

    machine: Machine
    port: Port
    register_s: float | None = None
    task: dict[str, Any] | None = None
    boot_s: float | None = None

    @property
    def name(self) -> str:
        return self.machine.spec.name


def machine_specs(options: Options) -> list[MachineSpec]:
    """The machines: every second BIOS machine has another network card and disk than the first."""
    specs = [
        MachineSpec(
            name=f"bios-{i}",
            firmware=SEABIOS if i % 2 else SEABIOS_E1000,
            mac=f"52:54:00:b1:05:{i:02x}",
            disk_bus="virtio" if i % 2 else "sata",
        )
        for i in range(1, options.bios + 1)
    ]
    specs += [
        MachineSpec(
            name=f"uefi-{i}",
            firmware=OVMF,
            mac=f"52:54:00:0e:f1:{i:02x}",
            disk_bus="sata" if i % 2 else "virtio",
        )
        for i in range(1, options.uefi + 1)
    ]
    return specs


class Scenario:
    """One classroom from bare files to proven machines. A context manager; inside, call `play`."""

    def __init__(self, run: Run, options: Options, say: Say) -> None:
        self.data = run.directory / "data"
        self.socket = run.directory / "api.sock"
        self.classroom = Classroom(run)
        self.serve_log = run.logs / "serve.log"
        self._run = run
        self._options = options
        self._say = say
        self._seats: list[_Seat] = []
        self._image: ImageFacts | None = None
        self._appliance: BackgroundProcess | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.classroom)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def image(self) -> ImageFacts:
        """What is deployed. Captured first."""
        assert self._image is not None
        return self._image

    @property
    def machines(self) -> list[Machine]:
        return [seat.machine for seat in self._seats]

    def play(self, show: Show) -> list[MachineProof]:
        """All steps in their order. Raises LabError when one cannot be done; a machine's failure is in its proof."""
        self.build()
        self.serve()
        self.power_on()
        self.wait_for_registrations()
        self.deploy(show)
        self.wait_for_own_boots()
        return self.proofs()

    # Steps

    def build(self) -> None:
        """Agent and golden disk, from the cache where it has them."""
        temporary, logs = self._run.directory / "tmp", self._run.logs
        started = time.monotonic()
        self._say("agent: kernel and initramfs from Debian's packages (the first time takes a minute)")
        agent_files(self._run.cache, self.data / "agent", temporary=temporary, log=logs / "agent-build.log")
        size = sum((self.data / "agent" / name).stat().st_size for name in ("vmlinuz", "initrd.img"))
        self._say(f"agent: {size / 1e6:.1f} MB, {time.monotonic() - started:.1f} s")
        started = time.monotonic()
        self._say("golden disk: a minimal Debian for BIOS and UEFI (the first time takes a minute)")
        disk = golden_disk.golden_disk(self._run.cache, temporary=temporary, log=logs / "golden-disk.log")
        self._say(f"golden disk: {disk.stat().st_blocks * 512 >> 20} MiB used, {time.monotonic() - started:.1f} s")
        started = time.monotonic()
        # By a name in this run's directory: a loop device on it is then known as ours, should the capture be killed.
        source = self._run.directory / "golden.raw"
        os.link(disk, source)
        said = self._roomcast("image", "capture", str(source), "--name", IMAGE, "--data", str(self.data))
        self._say(f"{said} ({time.monotonic() - started:.1f} s)")

    def serve(self) -> None:
        """Start the appliance on its port of the classroom's network."""
        command: list[str | Path] = [ROOMCAST, "serve", "--interface", SERVER_INTERFACE]
        command += ["--data", self.data, "--socket", self.socket]
        if self._options.pcap is not None:
            dump: list[str | Path] = [
                "tcpdump",
                "-U",
                "-n",
                "-Z",
                "root",
                "-s",
                str(CAPTURE_BYTES),
                "-i",
                SERVER_INTERFACE,
            ]
            dump += ["-w", self._options.pcap.absolute(), CAPTURE_FILTER]
            log = self._run.logs / "tcpdump.log"
            self._stack.enter_context(BackgroundProcess("tcpdump", dump, log=log, namespace=self.classroom.server))
            _wait_until(lambda: "listening on" in last_lines(log), SERVE_TIMEOUT_S, "tcpdump does not listen")
        self._appliance = self._stack.enter_context(
            BackgroundProcess("roomcast serve", command, log=self.serve_log, namespace=self.classroom.server)
        )

        self._wait_for_appliance()
        self._say("the appliance serves the classroom")
        facts = self._get(f"/api/v1/images/{IMAGE}")
        self._image = ImageFacts(
            name=facts["name"],
            version=facts["version"],
            manifest_hash=facts["manifest_hash"],
            chunks=facts["chunk_count"],
            machine_id=golden_disk.MACHINE_ID,
        )

    def power_on(self) -> None:
        """Switch on all machines, their disks blank."""
        for spec in machine_specs(self._options):
            port = self.classroom.add_port()
            self.classroom.set_loss(port, self._options.loss_percent)
            directory = self._run.directory / spec.name
            machine = Machine(
                spec, directory=directory, logs=self._run.logs, namespace=self.classroom.room, tap=port.tap
            )
            machine.prepare()
            self._seats.append(_Seat(machine, port))
        for seat in self._seats:
            self._stack.callback(seat.machine.power_off)
            seat.machine.power_on()
            self._say(f"{seat.name}: power on, {seat.machine.spec.kind.upper()}, {seat.machine.spec.mac}, blank disk")

    def wait_for_registrations(self) -> None:
        """Until every machine's agent has registered; each gets its name. Raises LabError."""
        timeout_s = REGISTER_TIMEOUT_S * max(1.0, len(self._seats) / 2)
        deadline = time.monotonic() + timeout_s
        while waiting := [seat for seat in self._seats if seat.register_s is None]:
            self._check()
            known = {machine["inventory"]["boot_mac"] for machine in self._get("/api/v1/machines")}
            for seat in waiting:
                if seat.machine.spec.mac in known:
                    seat.register_s = time.monotonic() - seat.machine.powered_on_s
                    self._roomcast("machine", "rename", seat.machine.spec.mac, seat.name, "--socket", str(self.socket))
                    self._say(f"{seat.name}: agent registered {seat.register_s:.1f} s after power-on")
            if time.monotonic() > deadline:
                seat = waiting[0]
                log = seat.machine.serial.path
                raise LabError(f"{seat.name} has not registered within {timeout_s:.0f} s; see {log}", last_lines(log))
            time.sleep(POLL_S)

    def deploy(self, show: Show) -> None:
        """Cast the image to all machines, until each has ended its task."""
        names = [seat.name for seat in self._seats]
        command = ["deploy", IMAGE, "--to", ",".join(names)]
        troubles = Troubles() if self._options.trouble else None
        if troubles is not None:
            command += ["--max-bitrate", RATE]
        self._say(f"roomcast {' '.join(command)}")
        said = self._roomcast(*command, "--socket", str(self.socket))
        found = re.search(r"session (\d+)", said)
        if found is None:
            raise LabError(f"`roomcast deploy` names no session: {said}")
        deadline = time.monotonic() + DEPLOY_TIMEOUT_S
        while True:
            self._check()
            session = self._get(f"/api/v1/sessions/{found[1]}")
            show(session)
            if troubles is not None and (trouble := troubles.due(session)) is not None:
                self._make(trouble)
                continue
            if all(task["state"] not in ("pending", "running") for task in session["tasks"]):
                break
            if time.monotonic() > deadline:
                states = ", ".join(f"{task['machine']} {task['state']}" for task in session["tasks"])
                raise LabError(f"the session has not ended within {DEPLOY_TIMEOUT_S:.0f} s: {states}")
            time.sleep(POLL_S)
        if troubles is not None and not troubles.all_came:
            raise LabError("the cast was over before all went wrong that should have")
        if counted := session["statistics"]:
            self._say(
                f"cast: {counted['sent_bytes'] / 1e6:,.0f} MB sent once for all in {counted['elapsed_s']:.1f} s, "
                f"{counted['repair_packets']:,.0f} repair packets, {counted['nacks']:,.0f} NACKs"
            )
        tasks = {task["machine"]: task for task in session["tasks"]}
        for seat in self._seats:
            seat.task = tasks[seat.name]

    def wait_for_own_boots(self) -> None:
        """Until every machine whose task succeeded has booted its own disk and said so, or its time is over."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < deadline:
            self._check()
            waiting = [s for s in self._seats if s.boot_s is None and s.task and s.task["state"] == "succeeded"]
            if not waiting:
                return
            for seat in waiting:
                if (booted := parse_booted(seat.machine.serial.text())) is not None:
                    assert seat.task is not None
                    seat.boot_s = time.time() - seat.task["ended_s"]
                    self._say(f"{seat.name}: its own disk booted, it calls itself {booted.hostname}")
            time.sleep(POLL_S)

    def proofs(self) -> list[MachineProof]:
        """What is known of each machine now."""
        return [self._proof(seat) for seat in self._seats]

    # Means

    def _proof(self, seat: _Seat) -> MachineProof:
        task = seat.task or {}
        succeeded = task.get("state") == "succeeded"
        spec = seat.machine.spec
        return MachineProof(
            name=seat.name,
            firmware=spec.kind,
            disk_serial=spec.disk_serial,
            register_s=seat.register_s,
            report=decode(Proof, json.dumps(task["proof"]).encode()) if succeeded and task["proof"] else None,
            error=task.get("error", ""),
            booted=parse_booted(seat.machine.serial.text()),
            boot_s=seat.boot_s,
            dropped_packets=self.classroom.dropped_packets(seat.port),
        )

    def _wait_for_appliance(self) -> None:
        def answers() -> bool:
            self._check()
            try:
                return bool(self._get("/healthz"))
            except NetbootError:
                return False

        _wait_until(answers, SERVE_TIMEOUT_S, "the appliance does not answer")

    def _make(self, trouble: Trouble) -> None:
        assert self._appliance is not None
        self._say(trouble)
        match trouble:
            case Trouble.POWER:
                machine = self._seats[0].machine
                machine.power_off()
                machine.power_on()
            case Trouble.SENDER:
                for process in descendants(self._appliance.pid, "send_process"):
                    os.kill(process, signal.SIGKILL)
            case Trouble.APPLIANCE:
                self._appliance.kill()
                self._appliance.start()
                self._wait_for_appliance()

    def _check(self) -> None:
        """Raise LabError when the appliance or a machine has ended."""
        if self._appliance is not None:
            self._appliance.check()
        for seat in self._seats:
            seat.machine.check()

    def _get(self, path: str) -> Any:
        with ApplianceClient(self.socket) as appliance:
            return appliance.get(path)

    def _roomcast(self, *words: str) -> str:
        """Run the command line as an administrator would, and return what it says."""
        return run_program([ROOMCAST, *words])


def _wait_until(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{otherwise} within {timeout_s:.0f} s")
        time.sleep(0.1)
