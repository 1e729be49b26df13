"""How machines take their tasks by the agents' API and end them; the real app and database, without a network."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from deployment_builders import LOOPBACK, A, B, a_bench, done, failed, next_task
from inventories import an_inventory

from imager.image.chunks import Decompressor
from imager.image.manifest import parse_signed
from imager.image.plan import build_bitmap
from imager.wire.messages import Admission, After, Progress, ProgressAnswer, TaskKind, decode, encode
from netboot.deployment.grouping import CastInterface


def test_not_a_number_is_refused_as_seconds(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for word in ("NaN", "Infinity", "-Infinity", "1e999"):
                body = encode(an_inventory()).replace(b'"boot_s":6.5', b'"boot_s":' + word.encode())
                response = await bench.anonymous.post("/agent/v1/register", content=body)
                assert response.status_code == 400, word

    asyncio.run(story())


def test_waiting_agent_gets_its_task_as_soon_as_it_is_given(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A, B)
            asking = asyncio.create_task(next_task(machine, 30))
            await bench.machine_waits(registration.machine_id)
            await bench.deploy("golden", registration.name)
            task = await asyncio.wait_for(asking, 10)
            assert task.kind is TaskKind.DEPLOY and task.deploy is not None
            assert task.deploy.manifest_hash == manifest.hash.hex()
            assert task.deploy.identity.hostname == registration.name
            assert task.deploy.after is After.REBOOT

    asyncio.run(story())


def test_machine_that_asks_while_its_session_is_being_opened_gets_its_task_when_it_can_be_admitted(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            deploying = asyncio.create_task(bench.deploy("golden", registration.name))
            while not (await bench.admin.get("/api/v1/tasks")).json():  # noqa: ASYNC110 (it tells nobody)
                await asyncio.sleep(0)
            task = await next_task(machine, 30)
            response = await machine.post(f"/agent/v1/tasks/{task.id}/ready", content=b"\x80")
            assert response.status_code == 200, response.text
            await deploying

    asyncio.run(story())


def test_machine_that_starts_anew_gets_its_running_task_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, _, _, first = await bench.deploying(A)
            _, machine = await bench.register(an_inventory())
            assert await next_task(machine) == first

    asyncio.run(story())


def test_machine_that_moved_to_another_interface_fails_at_once_and_is_told_why(tmp_path: Path) -> None:
    """The cast is sent where it was: it would wait there until it is failed as silent."""

    async def story() -> None:
        eth2 = CastInterface("eth2", IPv4Address("10.78.0.1"), IPv4Network("10.78.0.0/24"))
        async with a_bench(tmp_path, interfaces=[LOOPBACK, eth2]) as bench:
            bench.keep_image("golden", A)
            machines = [an_inventory(mac=f"52:54:00:00:00:0{n}", address=f"127.0.0.{n}") for n in (5, 6, 7)]
            names = [(await bench.register(each))[0].name for each in machines]
            session = await bench.deploy("golden", *names)
            _, moved = await bench.register(replace(machines[0], address="10.78.0.9"))
            _, stayed = await bench.register(machines[1])
            _, behind_a_router = await bench.register(replace(machines[2], address="10.90.0.9"))
            assert (await next_task(moved)).kind is TaskKind.WAIT
            assert (await next_task(stayed)).kind is TaskKind.DEPLOY
            assert (await next_task(behind_a_router)).kind is TaskKind.DEPLOY
            tasks = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["tasks"]
            assert [task["state"] for task in tasks] == ["failed", "running", "running"]
            assert tasks[0]["error"] == (
                f"{names[0]} is on eth2 by now (10.78.0.9), and its session is sent on lo: deploy to it again"
            )

    asyncio.run(story())


def test_machine_sees_no_task_of_another(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            mine, machine = await bench.register(an_inventory("52:54:00:00:00:01"))
            _, stranger = await bench.register(an_inventory("52:54:00:00:00:02"))
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", mine.name)
            task = await next_task(machine)
            path = f"/agent/v1/tasks/{task.id}"
            progress = encode(Progress("scan", 0, 1, 0.0))
            assert (await next_task(stranger)).kind is TaskKind.WAIT
            assert (await stranger.get(f"{path}/manifest")).status_code == 404
            assert (await stranger.post(f"{path}/progress", content=progress)).status_code == 404
            assert (await stranger.post(f"{path}/ready", content=b"\x80")).status_code == 404
            assert (await stranger.post(f"{path}/result", content=done(manifest.hash.hex()))).status_code == 404
            assert (await machine.post(f"{path}/progress", content=progress)).status_code == 204

    asyncio.run(story())


def test_manifest_that_the_agent_gets_is_signed_by_the_appliance(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A, B)
            await bench.deploy("golden", registration.name, version=1)
            task = await next_task(machine)
            data = (await machine.get(f"/agent/v1/tasks/{task.id}/manifest")).content
            assert parse_signed(data, bench.appliance.public_key) == manifest

    asyncio.run(story())


def test_bitmap_that_does_not_fit_the_image_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, _, _, task = await bench.deploying(A, B)
            path = f"/agent/v1/tasks/{task.id}/ready"
            assert (await machine.post(path, content=b"\xc0\x00")).status_code == 400
            assert (await machine.post(path, content=b"\xff")).status_code == 400
            assert (await machine.post(path, content=b"")).status_code == 400
            admitted = decode(Admission, (await machine.post(path, content=build_bitmap([0, 1], 2))).content)
            assert admitted.cast is not None
            assert admitted.cast.sender == "127.0.0.1" and admitted.cast.control_port > 0

    asyncio.run(story())


def test_machine_that_lacks_nothing_ends_its_session_without_a_packet(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, manifest, session, task = await bench.deploying(A)
            answer = await machine.post(f"/agent/v1/tasks/{task.id}/ready", content=b"\x00")
            assert decode(Admission, answer.content) == Admission(None)
            result = await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex()))
            assert result.status_code == 204
            seen = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()
            assert seen["state"] == "done"
            assert seen["statistics"].get("sent_bytes", 0) == 0
            assert seen["tasks"][0]["proof"]["chunks_verified"] == 1

    asyncio.run(story())


def test_success_without_a_proof_of_this_image_is_a_failure(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, _, session, task = await bench.deploying(A)
            await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done("0" * 64))
            seen = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()
            assert seen["state"] == "failed"
            assert seen["tasks"][0]["error"] == "the agent's proof is not of this image"

    asyncio.run(story())


def test_success_that_proves_fewer_chunks_than_the_image_has_is_a_failure(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, manifest, _, task = await bench.deploying(A, B)
            await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex(), 1))
            seen = (await bench.admin.get(f"/api/v1/tasks/{task.id}")).json()
            assert (seen["state"], seen["error"]) == ("failed", "the agent proved 1 of the image's 2 chunks")

    asyncio.run(story())


def test_body_for_a_task_that_is_not_the_machines_is_not_read(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            owner, owner_client = await bench.register(an_inventory("52:54:00:00:00:01"))
            _, other = await bench.register(an_inventory("52:54:00:00:00:02"))
            bench.keep_image("golden", A)
            await bench.deploy("golden", owner.name)
            task = await next_task(owner_client)
            read: list[int] = []

            async def body() -> AsyncIterator[bytes]:
                read.append(1)
                yield b"x"

            path = f"/agent/v1/tasks/{task.id}"
            chunk = f"{path}/chunks/{'0' * 64}"
            for client, method, where, status in (
                (other, "POST", f"{path}/publish", 404),
                (other, "PUT", chunk, 404),
                (other, "POST", f"{path}/ready", 404),
                (other, "POST", f"{path}/result", 404),
                (owner_client, "POST", f"{path}/publish", 404),  # it is no capture
                (owner_client, "PUT", chunk, 404),
            ):
                answer = await client.request(method, where, content=body())
                assert (answer.status_code, read) == (status, []), where
            await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")
            for what in ("ready", "result", "publish"):
                answer = await owner_client.post(f"{path}/{what}", content=body())
                assert (answer.status_code, read) == (410, []), what

    asyncio.run(story())


def test_machine_that_waits_long_without_a_task_starts_its_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            assert (await next_task(machine)).kind is TaskKind.WAIT
            bench.clock.now_s += 899
            assert (await next_task(machine)).kind is TaskKind.WAIT
            bench.clock.now_s += 1
            assert (await next_task(machine)).kind is TaskKind.BOOT_LOCAL
            # It is back, with a deployment that fails: its disk may be half-written, so it waits for a person.
            await bench.register(an_inventory())
            machine = bench._clients[-1]
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            task = await next_task(machine)
            await machine.post(f"/agent/v1/tasks/{task.id}/result", content=failed("the disk is broken"))
            assert (await next_task(machine)).kind is TaskKind.WAIT
            bench.clock.now_s += 901
            assert (await next_task(machine)).kind is TaskKind.WAIT

    asyncio.run(story())


def test_result_may_be_told_twice_but_not_changed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, manifest, _, task = await bench.deploying(A)
            path = f"/agent/v1/tasks/{task.id}/result"
            assert (await machine.post(path, content=done(manifest.hash.hex()))).status_code == 204
            assert (await machine.post(path, content=done(manifest.hash.hex()))).status_code == 204
            assert (await machine.post(path, content=failed("changed my mind"))).status_code == 410

    asyncio.run(story())


def test_cancelled_task_tells_its_agent_to_stop(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, _, session, task = await bench.deploying(A)
            assert (await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")).status_code == 200
            progress = await machine.post(
                f"/agent/v1/tasks/{task.id}/progress", content=encode(Progress("scan", 1, 2, 0.0))
            )
            assert progress.status_code == 410
            assert (await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")).status_code == 409
            assert (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["state"] == "failed"

    asyncio.run(story())


def test_machine_that_no_cast_reaches_fetches_the_chunks_of_its_image_and_no_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, manifest, session, task = await bench.deploying(A)
            path = f"/agent/v1/tasks/{task.id}"
            answer = await machine.post(f"{path}/ready?unheard=true", content=b"\x80")
            admission = decode(Admission, answer.content)
            assert (admission.cast, admission.unicast) == (None, True)
            chunk = manifest.chunks[0]
            got = await machine.get(f"{path}/chunks/{chunk.hash.hex()}")
            assert Decompressor().open(got.content, chunk.raw_bytes, chunk.hash) == A
            assert (await machine.get(f"{path}/chunks/{'00' * 32}")).status_code == 404
            _, stranger = await bench.register(an_inventory("52:54:00:00:00:09"))
            assert (await stranger.get(f"{path}/chunks/{chunk.hash.hex()}")).status_code == 404
            events = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["events"]
            assert any("fetches by unicast: none of the cast's packets reach it" in event["text"] for event in events)

    asyncio.run(story())


def test_session_that_casts_nothing_has_no_sender_and_begins_with_its_first_machine(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, _, session, task = await bench.deploying(A, unicast=True)
            assert session["unicast"] is True
            answer = await machine.post(f"/agent/v1/tasks/{task.id}/ready", content=b"\x80")
            assert decode(Admission, answer.content) == Admission(None, True, "this session casts nothing")
            async with asyncio.timeout(10):
                while session["state"] != "sending":
                    await asyncio.sleep(0.01)
                    session = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()
            assert any("casts nothing" in event["text"] for event in session["events"])

    asyncio.run(story())


def test_machine_that_listens_to_a_cast_of_another_time_is_told_to_ask_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, _, _, task = await bench.deploying(A)
            path = f"/agent/v1/tasks/{task.id}"
            cast = decode(Admission, (await machine.post(f"{path}/ready", content=b"\x80")).content).cast
            assert cast is not None

            async def told(number: int) -> tuple[int, bytes]:
                word = encode(Progress("receive", 0, 1, 0.0, cast=number))
                answer = await machine.post(f"{path}/progress", content=word)
                return answer.status_code, answer.content

            assert await told(0) == (204, b"")
            assert await told(cast.session) == (204, b"")
            assert await told(cast.session ^ 1) == (200, encode(ProgressAnswer(again=True)))

    asyncio.run(story())
