"""The recorder: which machine a fetch belongs to, what is written when, and that a boot never waits for its log."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import pytest
from boot_builders import GIVEN, MACHINE_ID, START_S, Scene
from dhcp_builders import MAC, OTHER_MAC, SERVER, a_discover, an_arrival
from inventories import an_inventory
from sqlalchemy import event
from structlog.testing import capture_logs

from netboot.boot.contexts import BootKind
from netboot.bootlog.events import Agent, AgentStep, Fetch, Span
from netboot.bootlog.timeline import BootRecord, Phase, furthest
from netboot.deployment.boot_log import BootHistory
from netboot.errors import ServiceError, UnknownError
from netboot.model import Ignored
from netboot.persistence.machines import MachineRepository
from netboot.services import boot_log
from netboot.services.boot_log import BootRecorder, read_arp_table
from netboot.services.tftp import TransferReport

Given = ParamSpec("Given")


def in_a_loop(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    @functools.wraps(test)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, proxy=True)
    yield scene
    scene.close()


def paths(scene: Scene, mac: str) -> list[str]:
    boots = scene.recorder.boots(mac)
    return [e.event.path for e in boots[-1].entries if isinstance(e.event, Fetch)] if boots else []


async def run_for_a_moment(recorder: BootRecorder) -> None:
    """From the start of its task to its end."""
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_fetch_belongs_to_the_machine_that_has_the_lease(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0")
    assert paths(scene, MAC) == ["bios/core.0"]


def test_fetch_beside_another_server_belongs_to_who_asked_for_the_address(beside: Scene) -> None:
    beside.discover(7)
    beside.request(GIVEN, 7)
    beside.tftp("uefi/grub.efi")
    assert paths(beside, MAC) == ["uefi/grub.efi"]


def test_fetch_of_nobody_known_is_told_by_its_address(beside: Scene) -> None:
    beside.tftp("bios/core.0")
    assert paths(beside, str(GIVEN)) == ["bios/core.0"]


def test_question_for_its_configuration_tells_who_is_at_an_address(beside: Scene) -> None:
    beside.told(BootKind.AGENT)
    beside.tftp("agent/vmlinuz")
    assert paths(beside, MAC) == ["agent/vmlinuz"]


def test_question_in_the_name_of_another_machine_moves_no_address_that_has_a_lease(scene: Scene) -> None:
    scene.lease()
    liar = Scene.__new__(Scene)
    liar.__dict__ = {**scene.__dict__, "mac": OTHER_MAC}
    liar.told(BootKind.AGENT)
    scene.tftp("bios/core.0")
    assert paths(scene, MAC) == ["bios/core.0"]
    assert paths(scene, OTHER_MAC) == []


def test_neighbours_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "10.77.0.9        0x1         0x2         52:54:00:AA:00:01     *        eth0\n"
        "10.77.0.8        0x1         0x0         00:00:00:00:00:00     *        eth0\n"
        "cut off\n"
    )
    assert read_arp_table(table) == {"10.77.0.9": "52:54:00:aa:00:01"}
    assert read_arp_table(tmp_path / "none") == {}


def test_ignored_packets_and_refused_files_are_told_with_their_reasons(scene: Scene) -> None:
    scene.lease()
    scene.tftp_refused("pxelinux.0")
    scene.tftp_refused("grub/x86_64-efi/command.lst")
    scene.recorder.http_refused(scene.peer, "boot/secret", "no such file: boot/secret")
    scene.recorder.exchanged(a_discover(mac=OTHER_MAC), an_arrival(), Ignored("pool exhausted: 10.77.0.100"))
    assert [(p.source, p.what, p.reason) for p in scene.recorder.ignored()] == [
        (OTHER_MAC, "DHCP DISCOVER", "pool exhausted: 10.77.0.100"),
        (MAC, "HTTP boot/secret", "no such file: boot/secret"),
        (MAC, "TFTP pxelinux.0", "no such file: pxelinux.0"),
    ]


def test_file_that_is_asked_for_again_and_again_is_one_entry_with_its_count(scene: Scene) -> None:
    scene.lease()
    for seconds in (0.01, 0.02, 0.03):
        outcome = Ignored("no such file: pxelinux.0")
        scene.recorder.transferred(TransferReport(scene.peer, "pxelinux.0", -1, seconds, outcome))
    assert scene.texts()[-1] == "firmware: TFTP pxelinux.0: refused  (x3)"


def test_machine_that_never_boots_from_the_network_leaves_nothing_but_its_reason(scene: Scene) -> None:
    for number in range(50):
        mac = f"02:00:00:00:00:{number:02x}"
        scene.recorder.exchanged(a_discover(mac=mac), an_arrival(), Ignored("pool exhausted"))
    assert scene.recorder.latest(100) == []
    assert len(scene.recorder.ignored()) == 50


def test_agents_words_are_told_once_each_time_they_change(scene: Scene) -> None:
    scene.lease()
    scene.registered()
    for step in (AgentStep.WAITS, AgentStep.WAITS, AgentStep.TASK, AgentStep.TASK, AgentStep.SUCCEEDED):
        scene.agent(step)
    events = [e.event for e in scene.boots()[-1].entries if isinstance(e.event, Agent)]
    assert [event.step for event in events] == [AgentStep.WAITS, AgentStep.TASK, AgentStep.SUCCEEDED]


@in_a_loop
async def test_words_of_an_agent_that_registered_before_we_started_are_placed(scene: Scene) -> None:
    machine, _ = MachineRepository(scene.database).register(an_inventory(OTHER_MAC), "digest", 5.0)
    scene.recorder.agent(machine.id, AgentStep.WAITS)
    scene.recorder.agent(MACHINE_ID + 1000, AgentStep.WAITS)
    task = asyncio.create_task(scene.recorder.run())
    async with asyncio.timeout(30):
        while scene.recorder.changes.version == 0:
            await scene.recorder.changes.wait(0, 1.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (boot,) = scene.recorder.boots(OTHER_MAC)
    assert furthest(boot) is Phase.WORKING


@in_a_loop
async def test_what_is_not_written_yet_is_written_at_the_end(scene: Scene) -> None:
    scene.lease()
    assert scene.repository.boots({MAC}) == []
    await run_for_a_moment(scene.recorder)
    (kept,) = scene.repository.boots({MAC})
    assert [e.event for e in kept.entries] == [e.event for e in scene.boots()[-1].entries]


@in_a_loop
async def test_boots_are_written_in_batches_and_not_for_each_packet(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_log, "TICK_S", 0.001)
    monkeypatch.setattr(boot_log, "WRITE_EVERY_S", 0.01)
    statements: list[str] = []
    event.listen(scene.database._engine, "commit", lambda connection: statements.append("commit"))
    task = asyncio.create_task(scene.recorder.run())
    for number in range(200):
        scene.mac = f"02:00:00:00:00:{number:02x}"
        scene.discover()
        await asyncio.sleep(0)
    assert statements == []
    scene.wait(6)
    for _ in range(1000):
        if scene.repository.boots({scene.mac}):
            break
        await asyncio.sleep(0.01)
    assert len(scene.repository.boots({scene.mac})) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 0 < len(statements) <= 200 / boot_log.WRITE_AT_ONCE + 1


@in_a_loop
async def test_database_that_is_away_costs_the_log_and_nothing_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: object) -> None:
        raise ServiceError("the disk is full")

    scene.lease()
    monkeypatch.setattr(scene.database, "run", away)
    with capture_logs() as logs:
        await run_for_a_moment(scene.recorder)
    assert [(line["event"], line["cause"]) for line in logs] == [("boot log not written", "the disk is full")]
    assert len(scene.boots()) == 1


def test_failure_of_the_log_never_reaches_the_service(scene: Scene) -> None:
    with capture_logs() as logs:
        scene.recorder.exchanged(None, an_arrival(), Ignored("x"))  # type: ignore[arg-type]
    assert [(line["event"], line["hook"]) for line in logs] == [("boot log failed", "exchanged")]


def test_hooks_may_be_called_from_many_threads(scene: Scene) -> None:
    def fetch(number: int) -> None:
        for step in range(100):
            scene.recorder.http_started(f"10.9.0.{number}", f"file-{step}", 5, Span(0, 5))
            scene.recorder.http_ended(f"10.9.0.{number}", f"file-{step}", 5, Span(0, 5), 5, 0.1, "")

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert paths(scene, f"10.9.0.{number}") == [f"file-{step}" for step in range(100)]


@in_a_loop
async def test_boots_are_found_by_name_mac_and_address(scene: Scene) -> None:
    machines = MachineRepository(scene.database)
    history = BootHistory(scene.database, machines, scene.repository, scene.recorder)
    scene.lease()
    by_mac = await history.macs(MAC.upper().replace(":", "-"))
    assert by_mac == {MAC} == await history.macs(scene.peer)
    machine, _ = machines.register(an_inventory(MAC), "digest", 5.0)
    assert await history.macs(machine.name) == {MAC}
    with pytest.raises(UnknownError, match="no machine pc-99: name it by its MAC"):
        await history.macs("pc-99")
    with pytest.raises(UnknownError, match=r"no machine a\\x1b"):
        await history.macs("a\x1b[2J")


@in_a_loop
async def test_boots_are_found_by_how_a_uuid_begins_and_names_that_may_be_meant_are_told(scene: Scene) -> None:
    machines = MachineRepository(scene.database)
    history = BootHistory(scene.database, machines, scene.repository, scene.recorder)
    for number, uuid in enumerate(
        ("4c4c4544-0001", "4c4c4544-0002", "4c4c4544-0003", "4c4c4544-0004", "03000200-0400")
    ):
        mac = f"52:54:00:00:07:0{number}"
        machines.register(an_inventory(mac, system_uuid=f"{uuid}-4000-8000-000000000000"), "digest", 5.0)
        machines.rename(mac, f"room7-pc-{number}")
    assert await history.macs("03000200") == {"52:54:00:00:07:04"}
    assert await history.macs("4C4C4544-0002-4") == {"52:54:00:00:07:01"}
    several = "4 machines have a UUID that begins with 4c4c: room7-pc-0, room7-pc-1, room7-pc-2 and 1 more"
    with pytest.raises(UnknownError, match=several):
        await history.macs("4c4c")
    with pytest.raises(UnknownError, match="no machine 030: name it"):
        await history.macs("030")
    with pytest.raises(UnknownError, match="no machine room7-cp-4: did you mean room7-pc-4 or "):
        await history.macs("room7-cp-4")
    with pytest.raises(UnknownError, match="no machine pc-3: did you mean room7-pc-3"):
        await history.macs("pc-3")
    with pytest.raises(UnknownError, match="no machine printer: name it by its MAC"):
        await history.macs("printer")


@in_a_loop
async def test_boots_in_memory_and_on_the_disk_are_one_list(scene: Scene) -> None:
    history = BootHistory(scene.database, MachineRepository(scene.database), scene.repository, scene.recorder)
    scene.lease()
    await run_for_a_moment(scene.recorder)
    scene.tftp("bios/core.0")
    scene.wait(120)
    scene.lease()
    first, second = await history.boots({MAC}, count=20)
    assert first["lines"][-1]["text"].startswith("TFTP bios/core.0: 200 KB"), "memory knows more than the disk"
    assert first["next_s"] == second["started_s"]
    assert [boot["started_s"] for boot in await history.boots({MAC})] == [second["started_s"]]
    assert second["firmware"] == "BIOS (arch 0)" and first["started_s"] == START_S and str(SERVER) != first["address"]


@in_a_loop
async def test_list_of_boots_has_those_before_the_start_and_goes_on_with_each(scene: Scene) -> None:
    history = BootHistory(scene.database, MachineRepository(scene.database), scene.repository, scene.recorder)
    scene.repository.save([BootRecord(OTHER_MAC, START_S - 500, "pc-02"), BootRecord(MAC, START_S - 900, "pc-01")])
    scene.lease()
    told = [(boot["mac"], boot["summary"]) for boot in await history.latest(10)]
    assert told == [(MAC, "has an address"), (OTHER_MAC, "asked by DHCP")]
    scene.wait(30)
    assert [d["code"] for d in (await history.latest(1))[0]["diagnoses"]] == ["never-fetched"]
    scene.tftp("bios/core.0")
    assert (await history.latest(1))[0]["diagnoses"] == []
    scene.wait(1000)
    first, second = await history.latest(1), await history.latest(1)
    assert first[0] is second[0], "what is settled is not made again"
    assert [d["code"] for d in first[0]["diagnoses"]] == ["program-silent"]
    scene.told(BootKind.LOCAL)
    assert (await history.latest(1))[0]["summary"] == "told to start its own disk"
