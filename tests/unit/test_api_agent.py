"""The agents' API, by the real app and a real database; only the network is missing."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
from deployment_builders import (
    a_bench,
    a_manifest,
    an_image_of,
    an_inventory,
    client_of,
    done,
    failed,
)

from imager.image.manifest import Manifest, parse_signed
from imager.image.plan import build_bitmap
from imager.wire.messages import After, Progress, Task, TaskKind, decode, encode
from netboot.dhcp.leases import Lease, LeaseState
from netboot.errors import ConflictError

A, B = b"a" * 4096, b"b" * 4096


async def next_task(client: httpx.AsyncClient, wait_s: float = 0) -> Task:
    response = await client.get("/agent/v1/task", params={"wait": wait_s})
    assert response.status_code == 200, response.text
    return decode(Task, response.content)


def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


def test_machine_registers_under_a_name_made_of_its_mac(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory("52:54:00:ab:cd:ef"))
            assert registration.name == "pc-abcdef"
            again, _ = await bench.register(an_inventory("52:54:00:ab:cd:ef"))
            assert again.machine_id == registration.machine_id
            assert again.token != registration.token

    run(story())


def test_new_registration_ends_the_old_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            _, old = await bench.register(an_inventory())
            _, new = await bench.register(an_inventory())
            assert (await old.get("/agent/v1/task")).status_code == 401
            assert (await new.get("/agent/v1/task")).status_code == 200

    run(story())


NOBODYS_TOKENS: list[str | bytes | None] = [
    None,
    "Bearer",
    "Bearer 1",
    "Bearer 1." + "0" * 64,
    "Bearer 99." + "0" * 64,
    "Bearer -1.x",
    "Bearer 1e3.x",
    "Bearer " + "1" * 5000,
    "Basic 1.x",
    "Bearer ٣.x".encode(),
    "Bearer 9223372036854775808." + "0" * 64,
]


def test_nobody_gets_a_task_without_a_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            await bench.register(an_inventory())
            for header in NOBODYS_TOKENS:
                headers = {} if header is None else {"authorization": header}
                response = await bench.anonymous.get("/agent/v1/task", headers=headers)  # type: ignore[arg-type]
                assert response.status_code == 401, header

    run(story())


OUT_OF_SHAPE: list[dict[str, object]] = [
    {"boot_mac": "not-a-mac"},
    {"boot_mac": "01:00:5e:00:00:01"},
    {"boot_mac": "52:54:00:AB:CD:EF"},
    {"address": "10.77.0.1/24"},
    {"address": "::1"},
    {"system_uuid": "../../etc"},
    {"memory_bytes": -1},
    {"memory_bytes": 2**70},
    {"boot_s": "soon"},
    {"nics": [{"name": "e", "mac": "x", "driver": "", "speed_mbps": 1}]},
    {"disks": [{"device": "/etc/passwd", "model": "", "serial": "", "size_bytes": 1}]},
    {"firmware": "coreboot"},
]


def test_inventory_out_of_shape_is_refused_and_makes_no_machine(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for change in OUT_OF_SHAPE:
                tree = {**json.loads(encode(an_inventory())), **change}
                response = await bench.anonymous.post("/agent/v1/register", json=tree)
                assert response.status_code == 400, change
            assert (await bench.admin.get("/api/v1/machines")).json() == []

    run(story())


def test_not_a_number_is_refused_as_seconds(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for word in ("NaN", "Infinity", "-Infinity", "1e999"):
                body = encode(an_inventory()).replace(b'"boot_s":6.5', b'"boot_s":' + word.encode())
                response = await bench.anonymous.post("/agent/v1/register", content=body)
                assert response.status_code == 400, word

    run(story())


def test_padded_firmware_texts_are_cleaned_so_that_the_machine_still_registers(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory(serial="X1\x00\x00", product="P" * 5000))
            facts = (await bench.admin.get(f"/api/v1/machines/{registration.name}")).json()["inventory"]
            assert facts["serial"] == "X1"
            assert facts["product"] == "P" * 256

    run(story())


def test_body_beyond_its_bound_is_refused_with_and_without_an_announcement(tmp_path: Path) -> None:
    async def story() -> None:
        async def unannounced():  # type: ignore[no-untyped-def]
            for _ in range(300):
                yield b" " * 1024

        async with a_bench(tmp_path) as bench:
            announced = await bench.anonymous.post("/agent/v1/register", content=b" " * (300 * 1024))
            assert announced.status_code == 413
            chunked = await bench.anonymous.post("/agent/v1/register", content=unannounced())
            assert chunked.status_code == 413

    run(story())


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
            assert task.deploy.cast.sender == "127.0.0.1"
            assert task.deploy.cast.control_port > 0
            assert task.deploy.after is After.REBOOT

    run(story())


def test_machine_that_starts_anew_gets_its_running_task_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            first = await next_task(machine)
            _, machine = await bench.register(an_inventory())
            assert await next_task(machine) == first

    run(story())


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

    run(story())


def test_manifest_that_the_agent_gets_is_signed_by_the_appliance(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A, B)
            await bench.deploy("golden", registration.name, version=1)
            task = await next_task(machine)
            data = (await machine.get(f"/agent/v1/tasks/{task.id}/manifest")).content
            assert parse_signed(data, bench.appliance.public_key) == manifest

    run(story())


def test_bitmap_that_does_not_fit_the_image_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            bench.keep_image("golden", A, B)
            await bench.deploy("golden", registration.name)
            path = f"/agent/v1/tasks/{(await next_task(machine)).id}/ready"
            assert (await machine.post(path, content=b"\xc0\x00")).status_code == 400
            assert (await machine.post(path, content=b"\xff")).status_code == 400
            assert (await machine.post(path, content=b"")).status_code == 400
            assert (await machine.post(path, content=build_bitmap([0, 1], 2))).status_code == 204

    run(story())


def test_machine_that_lacks_nothing_ends_its_session_without_a_packet(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            session = await bench.deploy("golden", registration.name)
            task = await next_task(machine)
            assert (await machine.post(f"/agent/v1/tasks/{task.id}/ready", content=b"\x00")).status_code == 204
            result = await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex()))
            assert result.status_code == 204
            seen = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()
            assert seen["state"] == "done"
            assert seen["statistics"].get("sent_bytes", 0) == 0
            assert seen["tasks"][0]["proof"]["chunks_verified"] == 1

    run(story())


def test_success_without_a_proof_of_this_image_is_a_failure(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            session = await bench.deploy("golden", registration.name)
            task = await next_task(machine)
            await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done("0" * 64))
            seen = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()
            assert seen["state"] == "failed"
            assert seen["tasks"][0]["error"] == "the agent's proof is not of this image"

    run(story())


def test_success_that_proves_fewer_chunks_than_the_image_has_is_a_failure(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A, B)
            await bench.deploy("golden", registration.name)
            task = await next_task(machine)
            await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex(), 1))
            seen = (await bench.admin.get(f"/api/v1/tasks/{task.id}")).json()
            assert (seen["state"], seen["error"]) == ("failed", "the agent proved 1 of the image's 2 chunks")

    run(story())


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

    run(story())


def test_one_registration_does_not_take_over_a_machine_at_work(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            mac = "52:54:00:00:00:01"
            registration, machine = await bench.register(an_inventory(mac))
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            task = await next_task(machine)
            path = f"/agent/v1/tasks/{task.id}/progress"
            word = encode(Progress("receive", 1, 2, 1.0))
            await machine.post(path, content=word)
            stranger = client_of(bench.agent_app, address="10.77.0.66")
            inventory = encode(an_inventory(mac, address="10.77.0.66"))
            refused = await stranger.post("/agent/v1/register", content=inventory)
            assert refused.status_code == 409
            assert "is at work at 10.77.0.50" in refused.json()["detail"]
            assert (await machine.post(path, content=word)).status_code == 204
            bench.clock.now_s += 11  # it was switched off, and has another address now
            assert (await stranger.post("/agent/v1/register", content=inventory)).status_code == 200
            assert (await machine.post(path, content=word)).status_code == 401
            await stranger.aclose()

    run(story())


def test_machine_whose_address_is_leased_to_another_one_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            leases = bench.appliance.leases
            lease = Lease("52:54:00:00:00:02", IPv4Address("10.77.0.50"), leases.clock() + 3600)
            leases.table.save(lease)
            victim = encode(an_inventory("52:54:00:00:00:01"))
            refused = await bench.anonymous.post("/agent/v1/register", content=victim)
            assert refused.status_code == 409
            assert "10.77.0.50 is the address of 52:54:00:00:00:02" in refused.json()["detail"]
            await bench.register(an_inventory("52:54:00:00:00:02"))
            leases.table.save(replace(lease, expires_s=leases.clock() - 1))  # nobody's address any more
            await bench.register(an_inventory("52:54:00:00:00:01"))
            # Who declined the address found somebody else there: the machine that registers.
            leases.table.save(replace(lease, state=LeaseState.DECLINED))
            await bench.register(an_inventory("52:54:00:00:00:01"))

    run(story())


def test_stranger_without_a_lease_does_not_register_as_a_machine_that_has_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            leases, mac = bench.appliance.leases, "52:54:00:00:00:01"
            lease = Lease(mac, IPv4Address("10.77.0.50"), leases.clock() + 3600)
            leases.table.save(lease)
            _, machine = await bench.register(an_inventory(mac))
            stranger = client_of(bench.agent_app, address="10.77.0.66")
            inventory = encode(an_inventory(mac, address="10.77.0.66"))
            refused = await stranger.post("/agent/v1/register", content=inventory)
            assert refused.status_code == 409
            assert f"{mac} has the address 10.77.0.50" in refused.json()["detail"]
            assert (await machine.get("/agent/v1/task")).status_code == 200, "its token holds"
            leases.table.save(replace(lease, expires_s=leases.clock() - 1))
            assert (await stranger.post("/agent/v1/register", content=inventory)).status_code == 200
            await stranger.aclose()

    run(story())


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

    run(story())


def test_capture_that_is_cancelled_while_it_is_published_ends_in_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            await bench.admin.post("/api/v1/capture", json={"machine": registration.name, "image": "room-a"})
            task = await next_task(machine)
            path = f"/agent/v1/tasks/{task.id}"
            stored, rows = an_image_of(A)
            for digest, frame, _ in stored:
                await machine.put(f"{path}/chunks/{digest.hex()}", content=frame)
            writer = bench.appliance.captures._uploads[task.id].writer
            publish, began, go_on = writer.publish, asyncio.Event(), threading.Event()
            loop = asyncio.get_running_loop()

            def slowly(manifest: Manifest) -> Manifest:
                loop.call_soon_threadsafe(began.set)
                assert go_on.wait(10)
                return publish(manifest)

            writer.publish = slowly  # type: ignore[method-assign]
            publishing = asyncio.create_task(machine.post(f"{path}/publish", content=a_manifest("room-a", rows).body()))
            await began.wait()
            cancelling = asyncio.create_task(bench.admin.post(f"/api/v1/tasks/{task.id}/cancel"))
            await asyncio.sleep(0)
            assert (await bench.admin.get(f"/api/v1/tasks/{task.id}")).json()["state"] == "running"
            go_on.set()
            assert ((await publishing).status_code, (await cancelling).status_code) == (204, 200)
            assert (await bench.admin.get(f"/api/v1/tasks/{task.id}")).json()["state"] == "cancelled"
            with pytest.raises(ConflictError, match="has ended"):
                await bench.appliance.captures.has(task.id, b"\0" * 32)  # of a request that was on its way
            assert bench.appliance.captures._uploads == {}

    run(story())


def test_result_may_be_told_twice_but_not_changed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            path = f"/agent/v1/tasks/{(await next_task(machine)).id}/result"
            assert (await machine.post(path, content=done(manifest.hash.hex()))).status_code == 204
            assert (await machine.post(path, content=done(manifest.hash.hex()))).status_code == 204
            assert (await machine.post(path, content=failed("changed my mind"))).status_code == 410

    run(story())


def test_cancelled_task_tells_its_agent_to_stop(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            session = await bench.deploy("golden", registration.name)
            task = await next_task(machine)
            assert (await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")).status_code == 200
            progress = await machine.post(
                f"/agent/v1/tasks/{task.id}/progress", content=encode(Progress("scan", 1, 2, 0.0))
            )
            assert progress.status_code == 410
            assert (await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")).status_code == 409
            assert (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["state"] == "failed"

    run(story())


def test_capture_is_published_whole_with_the_appliances_signature(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            given = await bench.admin.post("/api/v1/capture", json={"machine": registration.name, "image": "room-a"})
            assert given.status_code == 201
            task = await next_task(machine)
            assert task.kind is TaskKind.CAPTURE and task.capture is not None and task.capture.image == "room-a"
            path = f"/agent/v1/tasks/{task.id}"
            stored, rows = an_image_of(A, B)
            for digest, frame, _ in stored:
                chunk = f"{path}/chunks/{digest.hex()}"
                assert (await machine.head(chunk)).status_code == 404
                assert (await machine.put(chunk, content=frame)).status_code == 204
                assert (await machine.head(chunk)).status_code == 200
            body = a_manifest("room-a", rows).body()
            assert (await machine.post(f"{path}/publish", content=body)).status_code == 204
            assert (await machine.post(f"{path}/publish", content=body)).status_code == 204
            result = json.dumps({"ok": True, "error": "", "log": []}).encode()
            assert (await machine.post(f"{path}/result", content=result)).status_code == 204
            images = (await bench.admin.get("/api/v1/images")).json()
            assert [(image["name"], image["version"]) for image in images] == [("room-a", 1)]
            assert bench.appliance.images.store.manifest("room-a").chunks == rows

    run(story())


def test_chunk_whose_bytes_are_not_its_name_is_not_stored(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            await bench.admin.post("/api/v1/capture", json={"machine": registration.name, "image": "room-a"})
            path = f"/agent/v1/tasks/{(await next_task(machine)).id}"
            stored, rows = an_image_of(A, B)
            (hash_a, frame_a, _), (hash_b, _, _) = stored
            wrong = f"{path}/chunks/{hash_b.hex()}"
            assert (await machine.put(wrong, content=frame_a)).status_code == 400
            assert (await machine.put(wrong, content=b"junk")).status_code == 400
            assert (await machine.put(wrong, content=b"")).status_code == 400
            assert (await machine.head(wrong)).status_code == 404
            assert (await machine.put(f"{path}/chunks/{'G' * 64}", content=frame_a)).status_code == 400
            await machine.put(f"{path}/chunks/{hash_a.hex()}", content=frame_a)
            publish = await machine.post(f"{path}/publish", content=a_manifest("room-a", rows).body())
            assert publish.status_code == 400
            assert "1 chunks of the manifest were never sent" in publish.json()["detail"]
            assert (await bench.admin.get("/api/v1/images")).json() == []

    run(story())


def test_cancelled_capture_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            await bench.admin.post("/api/v1/capture", json={"machine": registration.name, "image": "room-a"})
            task = await next_task(machine)
            stored, rows = an_image_of(A)
            chunk = f"/agent/v1/tasks/{task.id}/chunks/{stored[0][0].hex()}"
            assert (await machine.put(chunk, content=stored[0][1])).status_code == 204
            await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")
            assert (await machine.put(chunk, content=stored[0][1])).status_code == 410
            publish = f"/agent/v1/tasks/{task.id}/publish"
            assert (await machine.post(publish, content=a_manifest("room-a", rows).body())).status_code == 410
            assert list((tmp_path / "images" / "writing").iterdir()) == []
            assert (await bench.admin.get("/api/v1/images")).json() == []

    run(story())


def test_capture_cannot_publish_under_another_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            await bench.admin.post("/api/v1/capture", json={"machine": registration.name, "image": "room-a"})
            path = f"/agent/v1/tasks/{(await next_task(machine)).id}"
            stored, rows = an_image_of(A)
            await machine.put(f"{path}/chunks/{stored[0][0].hex()}", content=stored[0][1])
            answer = await machine.post(f"{path}/publish", content=a_manifest("golden", rows).body())
            assert answer.status_code == 400
            assert "golden" in answer.json()["detail"]

    run(story())


def test_administration_is_not_on_the_machines_network(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for path in ("/api/v1/machines", "/api/v1/deploy", "/openapi.json", "/docs", "/"):
                assert (await bench.anonymous.get(path)).status_code == 404
                assert (await bench.anonymous.post(path)).status_code in (404, 405)

    run(story())
