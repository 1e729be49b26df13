"""How machines send a captured image by the agents' API; the real app and database, without a network."""

import asyncio
import json
import threading
from pathlib import Path

import pytest
from deployment_builders import A, B, a_bench, a_manifest, an_image_of

from imager.image.manifest import Manifest
from imager.wire.messages import TaskKind
from netboot.errors import ConflictError


def test_capture_that_is_cancelled_while_it_is_published_ends_in_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, task = await bench.capturing()
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

    asyncio.run(story())


def test_capture_is_published_whole_with_the_appliances_signature(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, task = await bench.capturing()
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

    asyncio.run(story())


def test_chunk_whose_bytes_are_not_its_name_is_not_stored(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, task = await bench.capturing()
            path = f"/agent/v1/tasks/{task.id}"
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

    asyncio.run(story())


def test_cancelled_capture_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, task = await bench.capturing()
            stored, rows = an_image_of(A)
            chunk = f"/agent/v1/tasks/{task.id}/chunks/{stored[0][0].hex()}"
            assert (await machine.put(chunk, content=stored[0][1])).status_code == 204
            await bench.admin.post(f"/api/v1/tasks/{task.id}/cancel")
            assert (await machine.put(chunk, content=stored[0][1])).status_code == 410
            publish = f"/agent/v1/tasks/{task.id}/publish"
            assert (await machine.post(publish, content=a_manifest("room-a", rows).body())).status_code == 410
            assert list((tmp_path / "images" / "writing").iterdir()) == []
            assert (await bench.admin.get("/api/v1/images")).json() == []

    asyncio.run(story())


def test_capture_cannot_publish_under_another_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machine, task = await bench.capturing()
            path = f"/agent/v1/tasks/{task.id}"
            stored, rows = an_image_of(A)
            await machine.put(f"{path}/chunks/{stored[0][0].hex()}", content=stored[0][1])
            answer = await machine.post(f"{path}/publish", content=a_manifest("golden", rows).body())
            assert answer.status_code == 400
            assert "golden" in answer.json()["detail"]

    asyncio.run(story())
