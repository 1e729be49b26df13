"""The agent's loop: tasks that work, tasks that fail, an appliance that restarts in between."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_appliance import Appliance
from agent_builders import INVENTORY, PUBLIC_KEY, a_session, an_image
from image_builders import MIB

from imager.agent import main as agent_main
from imager.agent.client import ApplianceClient
from imager.agent.console import Console
from imager.agent.main import Agent, describe_machine, parse_arguments
from imager.agent.panel import PanelState
from imager.disk.devices import NotADisk
from imager.errors import ApplianceError, SourceError
from imager.wire.messages import Admission, After, CaptureTask, DeployTask, Disk, FirmwareKind, Task, TaskKind


class Left:
    """Notes how the machine would have been left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.how: list[str] = []
        monkeypatch.setattr("imager.agent.restart.reboot", lambda: self.how.append("reboot"))
        monkeypatch.setattr("imager.agent.restart.power_off", lambda: self.how.append("power off"))


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with Appliance() as started:
        yield started


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    monkeypatch.setattr(agent_main, "WAIT_S", 0.2)
    monkeypatch.setattr(agent_main, "REPORT_EVERY_S", 0.05)
    return Left(monkeypatch)


@pytest.fixture
def agent(appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Agent:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(6 * MIB))
    found = (Disk(str(disk), "Test disk", "DISK0001", 6 * MIB, 512, "sata", False),)
    monkeypatch.setattr(agent_main, "read_disks", lambda: found)
    console = Console([], [], PanelState("", "0.1", (), ""))
    client = ApplianceClient(appliance.url, lambda: INVENTORY, console.say)
    made = Agent(client, console, lambda: INVENTORY, PUBLIC_KEY, pause=lambda seconds: None)
    made.register()
    return made


def a_deploy_task(task: DeployTask, after: After = After.REBOOT) -> Task:
    return Task(5, TaskKind.DEPLOY, deploy=replace(task, after=after))


def test_no_task_is_no_news(agent: Agent, appliance: Appliance, left: Left) -> None:
    assert not agent.run_once()
    assert (appliance.results, left.how) == ([], [])


def test_a_deployment_ends_with_proof_and_a_restart(
    agent: Agent, appliance: Appliance, left: Left, tmp_path: Path
) -> None:
    store, manifest, data = an_image(tmp_path)
    with a_session(appliance, store, manifest) as task:
        appliance.tasks.put(a_deploy_task(task))
        assert agent.run_once()
    (result,) = appliance.results
    assert (result.ok, result.error) == (True, "")
    assert result.proof is not None and result.proof.chunks_verified == 5
    assert left.how == ["reboot"]
    assert (tmp_path / "disk.img").read_bytes()[: len(data)] == data
    assert {progress.step for progress in appliance.progress} <= {
        "preflight", "scan", "receive", "verify", "customise", "reboot", "",
    }  # fmt: skip


def test_a_failed_task_is_reported_with_its_log_and_the_next_one_is_done(
    agent: Agent, appliance: Appliance, left: Left, tmp_path: Path
) -> None:
    store, manifest, _ = an_image(tmp_path)
    with a_session(appliance, store, manifest) as task:
        appliance.tasks.put(a_deploy_task(replace(task, target="/dev/sdz")))
        agent.run_once()
        appliance.tasks.put(a_deploy_task(task, After.POWEROFF))
        agent.run_once()
    failed, done = appliance.results
    assert "/dev/sdz is not a disk of this machine" in failed.error
    assert any("failed: target /dev/sdz" in line for line in failed.log)
    assert (failed.ok, done.ok, left.how) == (False, True, ["power off"])


def test_a_machine_whose_cast_is_over_by_the_appliances_word_asks_again(
    agent: Agent, appliance: Appliance, left: Left, tmp_path: Path
) -> None:
    store, manifest, data = an_image(tmp_path)
    with a_session(appliance, store, manifest) as task:
        real, asked = appliance.on_ready, []
        assert real is not None

        def first_into_the_void(bitmap: bytes) -> Admission:
            asked.append(bitmap)
            admission = real(bitmap)
            if len(asked) > 1 or admission.cast is None:
                appliance.cast_is_over = False
                return admission
            appliance.cast_is_over = True
            return Admission(replace(admission.cast, session=admission.cast.session ^ 1))

        appliance.on_ready = first_into_the_void
        appliance.tasks.put(a_deploy_task(task))
        agent.run_once()
    assert len(asked) == 2
    assert [result.error for result in appliance.results] == [""]
    assert any("the sender of this cast is gone; asking the appliance again" in line for line in agent._console.log)
    assert (tmp_path / "disk.img").read_bytes()[: len(data)] == data
    assert {progress.cast for progress in appliance.progress} > {0}


@pytest.mark.parametrize(
    "error", [SourceError("a table of type sgi"), OSError(5, "Input/output error"), NotADisk("/dev/sda is gone")]
)
def test_a_firmware_that_cannot_be_asked_does_not_fail_a_proven_disk(
    agent: Agent, appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def broken(uuids: object, say: object) -> bool:
        raise error

    monkeypatch.setattr("imager.agent.deploy.boot_disk_next", broken)
    monkeypatch.setattr(agent, "_inventory", lambda: replace(INVENTORY, firmware=FirmwareKind.UEFI))
    store, manifest, _ = an_image(tmp_path)
    with a_session(appliance, store, manifest) as task:
        appliance.tasks.put(a_deploy_task(task))
        agent.run_once()
    (result,) = appliance.results
    assert (result.ok, result.error, left.how) == (True, "", ["reboot"])
    assert any(f"not asked to start this disk: {error}" in line for line in result.log)


def test_a_fault_of_the_agents_own_is_told_with_its_traceback(
    agent: Agent, appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(task: CaptureTask, context: object) -> None:
        raise KeyError("window")

    monkeypatch.setattr("imager.agent.capture.run_capture", broken)
    appliance.tasks.put(Task(6, TaskKind.CAPTURE, capture=CaptureTask("golden", "", After.REBOOT)))
    agent.run_once()
    (result,) = appliance.results
    assert result.error == "the agent has a fault: KeyError: 'window'"
    assert any("Traceback" in line for line in result.log)
    assert left.how == []


def test_a_cancelled_task_stops_and_is_not_reported(
    agent: Agent, appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(task: CaptureTask, context: agent_main.TaskContext) -> None:
        context.meter.begin("capture", 100)
        context.gone.wait(20)
        context.check_wanted()

    monkeypatch.setattr("imager.agent.capture.run_capture", endless)
    appliance.cancelled = True
    appliance.tasks.put(Task(6, TaskKind.CAPTURE, capture=CaptureTask("golden", "", After.REBOOT)))
    started = time.monotonic()
    agent.run_once()
    assert time.monotonic() - started < 10
    assert (appliance.results, left.how) == ([], [])


def test_a_result_reaches_an_appliance_that_was_set_up_anew_meanwhile(
    agent: Agent, appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imager.agent.capture.run_capture", lambda task, context: appliance.forget_machines())
    appliance.tasks.put(Task(6, TaskKind.CAPTURE, capture=CaptureTask("golden", "", After.STAY)))
    agent.run_once()
    assert [result.ok for result in appliance.results] == [True]
    assert len(appliance.registrations) == 2


def test_heartbeats_go_on_while_a_step_works(
    agent: Agent, appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(task: CaptureTask, context: agent_main.TaskContext) -> None:
        context.meter.begin("capture", 200)
        context.meter.advance(50)
        heard = threading.Event()
        while not heard.wait(0.01):
            if len(appliance.progress) >= 3:
                heard.set()

    monkeypatch.setattr("imager.agent.capture.run_capture", slow)
    appliance.tasks.put(Task(6, TaskKind.CAPTURE, capture=CaptureTask("golden", "", After.STAY)))
    agent.run_once()
    assert (appliance.progress[-1].step, appliance.progress[-1].done_bytes) == ("capture", 50)


def test_a_machine_without_work_starts_its_disk_when_told(agent: Agent, appliance: Appliance, left: Left) -> None:
    appliance.tasks.put(Task(7, TaskKind.BOOT_LOCAL))
    agent.run_once()
    assert left.how == ["reboot"]


@pytest.mark.parametrize(("starts", "how"), [(True, ["reboot"]), (False, [])])
def test_a_machine_whose_firmware_cannot_start_its_disk_waits_in_the_agent(
    agent: Agent, appliance: Appliance, left: Left, monkeypatch: pytest.MonkeyPatch, starts: bool, how: list[str]
) -> None:
    monkeypatch.setattr("imager.agent.next_start.start_disk_next", lambda disks, say: starts)
    appliance.tasks.put(Task(0, TaskKind.BOOT_LOCAL, boot_next=True))
    assert not agent.run_once()
    assert left.how == how


def test_the_kernels_command_line_tells_server_and_key() -> None:
    found = parse_arguments(f"quiet roomcast.server=http://10.77.0.1:80 roomcast.key={'ab' * 32} BOOTIF=01-52 ro\n")
    assert (found.server, found.public_key) == ("http://10.77.0.1:80", b"\xab" * 32)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("quiet", r"roomcast\.server=http://ADDRESS:PORT is missing"),
        ("roomcast.server=http://x roomcast.key=zz", r"roomcast\.key"),
        ("roomcast.server=http://x roomcast.key=abcd", r"roomcast\.key"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_said(line: str, says: str) -> None:
    with pytest.raises(ApplianceError, match=says):
        parse_arguments(line)


def test_the_screens_foot_names_machine_address_and_disks() -> None:
    disks = (Disk("/dev/sda", "Samsung SSD", "", 512_000_000_000, 512, "sata", False),)
    text = "\n".join(describe_machine(replace(INVENTORY, disks=disks)))
    assert "QEMU Standard PC, BIOS" in text
    assert "127.0.0.1 (52:54:00:00:00:01)" in text
    assert "disks: /dev/sda 512 GB Samsung SSD" in text
