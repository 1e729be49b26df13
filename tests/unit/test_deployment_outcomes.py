"""How tasks end, whoever ends them: the watch, the administrator, the machine, the sender."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from deployment_builders import LOOPBACK, Bench, a_bench, a_proof, done, failed
from inventories import an_inventory

from imager.transport.receive import ReceiveProcess
from imager.wire.messages import Admission, Progress, Task, TaskKind, TaskResult, decode, encode
from netboot.boot.contexts import BootKind
from netboot.deployment.grouping import CastInterface
from netboot.model import TaskState

A = b"a" * 4096
SILENCE_S, JOIN_S = 60.0, 3600.0


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


async def tasks_of(bench: Bench) -> dict[str, tuple[str, str]]:
    tasks = (await bench.admin.get("/api/v1/tasks")).json()
    return {task["machine"]: (task["state"], task["error"]) for task in tasks}


async def take(machine: Any) -> Task:
    return decode(Task, (await machine.get("/agent/v1/task")).content)


def test_silent_machine_is_failed_after_the_stated_time_and_the_others_go_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            quiet, quiet_client = await bench.register(an_inventory("52:54:00:00:00:01"))
            alive, alive_client = await bench.register(an_inventory("52:54:00:00:00:02"))
            bench.keep_image("golden", A)
            session = await bench.deploy("golden", quiet.name, alive.name)
            quiet_task = await take(quiet_client)
            began = encode(Progress("preflight", 0, 0, 0.0))
            await quiet_client.post(f"/agent/v1/tasks/{quiet_task.id}/progress", content=began)
            task = await take(alive_client)
            bench.clock.now_s += SILENCE_S
            await alive_client.post(f"/agent/v1/tasks/{task.id}/progress", content=encode(Progress("scan", 1, 2, 0.0)))
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            assert {name: state for name, (state, _) in (await tasks_of(bench)).items()} == {
                quiet.name: "running",
                alive.name: "running",
            }
            bench.clock.now_s += 1
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            seen = await tasks_of(bench)
            assert seen[quiet.name] == ("failed", f"machine {quiet.name} was silent for 61 s")
            assert seen[alive.name] == ("running", "")
            assert (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["state"] == "waiting"

    run(story())


def test_machine_that_never_boots_is_failed_after_the_stated_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            session = await bench.deploy("golden", registration.name)
            bench.clock.now_s += JOIN_S
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            assert (await tasks_of(bench))[registration.name][0] == "pending"
            bench.clock.now_s += 1
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            state, error = (await tasks_of(bench))[registration.name]
            assert state == "failed" and "did not take its task" in error
            assert (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["state"] == "failed"

    run(story())


def test_task_handed_to_a_machine_that_was_switched_off_while_it_asked_waits_for_it_to_boot(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            poll = asyncio.create_task(client.get("/agent/v1/task?wait=60"))
            await bench.machine_waits(registration.machine_id)
            await bench.deploy("golden", registration.name)
            await poll  # into the void
            bench.clock.now_s += JOIN_S
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            assert (await tasks_of(bench))[registration.name][0] == "running"
            assert bench.appliance.next_boots.next_boot("52:54:00:00:00:01").kind is BootKind.AGENT
            bench.clock.now_s += 1
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            assert (await tasks_of(bench))[registration.name][0] == "failed"

    run(story())


def test_session_whose_last_task_ended_as_the_appliance_died_is_ended_by_its_successor(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            task = await take(client)
            result = TaskResult(True, "", (), a_proof(manifest.hash.hex()))
            bench.appliance.sessions.end_task(task.id, TaskState.SUCCEEDED, result, 1.0)
        async with a_bench(tmp_path) as bench:
            assert (await bench.admin.get("/api/v1/sessions/1")).json()["state"] == "waiting"
            await bench.appliance.orders.resume()
            assert (await bench.admin.get("/api/v1/sessions/1")).json()["state"] == "done"

    run(story())


def test_session_goes_on_after_a_restart_without_the_machine_that_moved_to_another_interface(tmp_path: Path) -> None:
    async def story() -> None:
        eth2 = CastInterface("eth2", IPv4Address("10.78.0.1"), IPv4Network("10.78.0.0/24"))
        stayed, moved = (an_inventory(mac=f"52:54:00:00:00:0{n}", address=f"127.0.0.{n}") for n in (5, 6))
        async with a_bench(tmp_path, interfaces=[LOOPBACK, eth2]) as bench:
            names = [(await bench.register(each))[0].name for each in (moved, stayed)]
            bench.keep_image("golden", A)
            await bench.deploy("golden", *names)
            await bench.register(replace(moved, address="10.78.0.9"))
        async with a_bench(tmp_path, interfaces=[eth2, LOOPBACK]) as bench:
            await bench.appliance.orders.resume()
            _, machine = await bench.register(stayed)
            assert (await take(machine)).kind is TaskKind.DEPLOY
            _, machine = await bench.register(replace(moved, address="10.78.0.9"))
            assert (await take(machine)).kind is TaskKind.WAIT
            seen = await tasks_of(bench)
            assert seen[names[1]] == ("running", "")
            state, error = seen[names[0]]
            assert state == "failed" and "its session is sent on lo: deploy to it again" in error

    run(story())


def test_what_the_sender_counted_is_kept_when_two_last_tasks_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            task = await take(client)
            bench.appliance.sessions.end_task(task.id, TaskState.FAILED, TaskResult(False, "x", ()), 1.0)
            answers: list[dict[str, float]] = [{"sent_bytes": 7.0}, {}]

            async def close(session_id: int) -> dict[str, float]:
                answer = answers.pop(0)
                if answer:
                    await asyncio.sleep(0.2)  # its sender takes a moment for its last word
                return answer

            with monkeypatch.context() as patch:
                patch.setattr(bench.appliance.casts, "close", close)
                await asyncio.gather(bench.appliance.outcomes.settle(1), bench.appliance.outcomes.settle(1))
            assert (await bench.admin.get("/api/v1/sessions/1")).json()["statistics"] == {"sent_bytes": 7.0}

    run(story())


def test_failing_a_session_ends_it_when_no_task_is_open(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            task = await take(client)
            bench.appliance.sessions.end_task(task.id, TaskState.FAILED, TaskResult(False, "x", ()), 1.0)
            await bench.appliance.outcomes.fail_session(1, "its sender is gone")
            assert (await bench.admin.get("/api/v1/sessions/1")).json()["state"] == "failed"

    run(story())


def test_machine_whose_deployment_failed_boots_the_agent_until_a_task_succeeds_or_is_cancelled(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            mac = "52:54:00:00:00:01"
            registration, client = await bench.register(an_inventory(mac))
            manifest = bench.keep_image("golden", A)
            next_boot = bench.appliance.next_boots.next_boot

            async def deploy(result: bytes | None) -> None:
                await bench.deploy("golden", registration.name)
                task = await take(client)
                if result is None:
                    await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")
                else:
                    await client.post(f"/agent/v1/tasks/{task.id}/result", content=result)

            for ending in (done(manifest.hash.hex()), None):
                await deploy(failed("the disk is broken"))
                assert next_boot(mac).kind is BootKind.AGENT
                assert next_boot(mac).reason == "deploy golden failed: it waits for a new task"
                await deploy(ending)
                assert next_boot(mac).kind is BootKind.LOCAL

    run(story())


def test_disks_that_cannot_take_the_image_are_told_together_before_anything_begins(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            disk = an_inventory().disks[0]
            good, _ = await bench.register(an_inventory("52:54:00:00:00:01"))
            small, _ = await bench.register(an_inventory("52:54:00:00:00:02", disks=(replace(disk, size_bytes=4096),)))
            two, _ = await bench.register(
                an_inventory("52:54:00:00:00:03", disks=(disk, replace(disk, device="/dev/vdb")))
            )
            bench.keep_image("golden", A, A)
            answer = await bench.admin.post("/api/v1/deploy", json={"image": "golden", "to": ["all"]})
            assert answer.status_code == 400
            told = answer.json()["detail"]
            assert told.startswith("2 of 3 machines cannot take golden: ")
            assert f"{small.name}: /dev/vda has 4.1 kB, the image needs 8.2 kB" in told
            assert f"{two.name}: this machine has 2 fixed disks" in told
            assert good.name not in told and "--target" in told
            assert (await bench.admin.get("/api/v1/sessions")).json() == []
            body = {"image": "golden", "to": ["all"], "target": "/dev/sdq"}
            answer = await bench.admin.post("/api/v1/deploy", json=body)
            assert answer.status_code == 400 and "/dev/sdq is not a disk of this machine" in answer.json()["detail"]

    run(story())


def test_task_of_an_earlier_run_gets_its_time_before_it_is_failed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            await take(client)
        async with a_bench(tmp_path) as bench:
            await bench.appliance.orders.resume()
            bench.clock.now_s += 1000
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            assert (await tasks_of(bench))[registration.name][0] == "running"
            bench.clock.now_s += SILENCE_S + 1
            await bench.appliance.outcomes.watch_once(SILENCE_S, JOIN_S)
            assert (await tasks_of(bench))[registration.name][0] == "failed"

    run(story())


def test_next_boot_goes_to_the_agent_only_for_strangers_and_machines_with_a_task(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            next_boot = bench.appliance.next_boots.next_boot
            mac = "52:54:00:00:00:01"
            assert next_boot(mac).kind is BootKind.AGENT
            registration, client = await bench.register(an_inventory(mac))
            assert (next_boot(mac).kind, next_boot(mac).reason) == (BootKind.LOCAL, "no task")
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            step = next_boot(mac)
            assert (step.kind, step.machine, step.reason) == (
                BootKind.AGENT,
                registration.name,
                "deploy golden version 1",
            )
            task = await take(client)
            assert next_boot(mac).kind is BootKind.AGENT
            await client.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex()))
            assert next_boot(mac).kind is BootKind.LOCAL

    run(story())


def test_machine_that_failed_keeps_its_last_words(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            task = await take(client)
            await client.post(f"/agent/v1/tasks/{task.id}/result", content=failed("/dev/vda is too small"))
            seen = (await bench.admin.get(f"/api/v1/tasks/{task.id}")).json()
            assert (seen["error"], seen["log"]) == ("/dev/vda is too small", ["last words"])

    run(story())


def test_cancelling_a_session_ends_each_open_task_and_spares_what_is_done(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            first, client = await bench.register(an_inventory("52:54:00:00:00:01"))
            second, _ = await bench.register(an_inventory("52:54:00:00:00:02"))
            manifest = bench.keep_image("golden", A)
            session = await bench.deploy("golden", "all")
            task = await take(client)
            await client.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex()))
            cancelled = await bench.admin.post(f"/api/v1/sessions/{session['id']}/cancel")
            assert cancelled.status_code == 200
            states = {task["machine"]: task["state"] for task in cancelled.json()["tasks"]}
            assert states == {first.name: "succeeded", second.name: "cancelled"}
            assert cancelled.json()["state"] == "done"
            again = await bench.admin.post(f"/api/v1/sessions/{session['id']}/cancel")
            assert again.status_code == 409

    run(story())


def test_busy_machine_gets_no_second_task_and_nothing_is_left_of_the_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            busy, _ = await bench.register(an_inventory("52:54:00:00:00:01"))
            free, _ = await bench.register(an_inventory("52:54:00:00:00:02"))
            bench.keep_image("golden", A)
            await bench.deploy("golden", busy.name)
            answer = await bench.admin.post("/api/v1/deploy", json={"image": "golden", "to": ["all"]})
            assert answer.status_code == 409
            assert busy.name in answer.json()["detail"] and free.name not in answer.json()["detail"]
            assert len((await bench.admin.get("/api/v1/sessions")).json()) == 1
            assert set(await tasks_of(bench)) == {busy.name}

    run(story())


def test_sender_that_breaks_off_fails_those_who_still_receive(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            session = await bench.deploy("golden", registration.name)
            task = await take(client)
            assert task.deploy is not None
            pack = next((tmp_path / "images" / "versions" / "golden" / "1").glob("*.pack"))
            pack.write_bytes(b"\0" * pack.stat().st_size)
            answer = await client.post(f"/agent/v1/tasks/{task.id}/ready", content=b"\x80")
            admitted = decode(Admission, answer.content)
            assert admitted.cast is not None
            receiver = ReceiveProcess(admitted.cast, "127.0.0.1", manifest.stored_lengths)
            receiver.start()
            try:
                seen: dict[str, Any] = {}
                async with asyncio.timeout(30):
                    while seen.get("state") != "failed":
                        version = bench.appliance.changes.version
                        seen = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()
                        await bench.appliance.changes.wait(version, 1.0)
            finally:
                receiver.stop()
            assert "sending broke off" in seen["tasks"][0]["error"]

    run(story())


@pytest.mark.parametrize("image", ["nosuch", "golden:9"])
def test_unknown_image_or_version_is_told_and_nothing_is_opened(tmp_path: Path, image: str) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            name, _, version = image.partition(":")
            body = {"image": name, "to": [registration.name], "version": int(version) if version else None}
            answer = await bench.admin.post("/api/v1/deploy", json=body)
            assert answer.status_code == 404
            assert name in answer.json()["detail"]
            assert (await bench.admin.get("/api/v1/sessions")).json() == []
            assert await tasks_of(bench) == {}

    run(story())
