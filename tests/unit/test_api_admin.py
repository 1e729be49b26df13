"""The administrators' API: what it takes, what it refuses, what it tells."""

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from deployment_builders import a_bench, done
from inventories import an_inventory

from imager.wire.messages import FirmwareKind, Task, decode

A = b"a" * 4096


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


OUT_OF_RANGE: list[dict[str, Any]] = [
    {},
    {"image": "golden"},
    {"image": "golden", "to": []},
    {"image": "golden", "to": "all"},
    {"image": "../../etc", "to": ["all"]},
    {"image": "Golden", "to": ["all"]},
    {"image": "golden", "to": ["x" * 64]},
    {"image": "golden", "to": ["all"], "version": 0},
    {"image": "golden", "to": ["all"], "version": 2**31},
    {"image": "golden", "to": ["all"], "max_wait_s": -1},
    {"image": "golden", "to": ["all"], "max_wait_s": 1e308},
    {"image": "golden", "to": ["all"], "max_bitrate_bps": 10**13},
    {"image": "golden", "to": ["all"], "min_receivers": -1},
    {"image": "golden", "to": ["all"], "after": "explode"},
    {"image": "golden", "to": ["all"], "target": "/etc/passwd"},
    {"image": "golden", "to": ["all"], "target": "/dev/../etc/passwd"},
    {"image": "golden", "to": ["all"], "tpyo": 1},
]


def test_deploy_out_of_range_is_refused_in_one_line(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            await bench.register(an_inventory())
            bench.keep_image("golden", A)
            for body in OUT_OF_RANGE:
                answer = await bench.admin.post("/api/v1/deploy", json=body)
                assert answer.status_code in (400, 422), body
                assert "\n" not in answer.json()["detail"]
            assert (await bench.admin.get("/api/v1/sessions")).json() == []

    run(story())


def test_more_receivers_wanted_than_named_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            await bench.register(an_inventory())
            bench.keep_image("golden", A)
            answer = await bench.admin.post(
                "/api/v1/deploy", json={"image": "golden", "to": ["all"], "min_receivers": 2}
            )
            assert answer.status_code == 400
            assert "min-receivers 2 is more than the 1 machines" in answer.json()["detail"]

    run(story())


def test_name_that_is_no_host_name_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory())
            for name in ["", "-pc", "pc-", "PC", "a b", "p" * 64, "pc;reboot", "пк"]:
                answer = await bench.admin.post(f"/api/v1/machines/{registration.name}/rename", json={"name": name})
                assert answer.status_code == 422, name
            assert (await bench.admin.get("/api/v1/machines")).json()[0]["name"] == registration.name

    run(story())


def test_machine_is_renamed_and_grouped(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory("52:54:00:00:00:01"))
            path = f"/api/v1/machines/{registration.name}"
            assert (await bench.admin.post(f"{path}/rename", json={"name": "teacher"})).json()["name"] == "teacher"
            by_mac = "/api/v1/machines/52-54-00-00-00-01"
            assert (await bench.admin.get(by_mac)).json()["name"] == "teacher"
            grouped = await bench.admin.post("/api/v1/machines/teacher/groups", json={"add": ["room-101"]})
            assert grouped.json()["groups"] == ["room-101"]
            assert (await bench.admin.get(path)).status_code == 404

    run(story())


def test_whole_room_is_grouped_in_one_request_or_not_at_all(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            macs = [f"52:54:00:00:00:{number:02x}" for number in range(1, 4)]
            names = [(await bench.register(an_inventory(mac)))[0].name for mac in macs]
            path = "/api/v1/groups/room-101/members"
            wrong = await bench.admin.post(path, json={"machines": [names[0], "nosuch", "nor-this"]})
            assert wrong.status_code == 404 and "no machine nosuch, nor-this" in wrong.json()["detail"]
            assert (await bench.admin.get(f"/api/v1/machines/{names[0]}")).json()["groups"] == []
            answer = await bench.admin.post(path, json={"machines": [*names[:2], macs[2], names[0]]})
            assert answer.json() == {name: ["room-101"] for name in names}
            again = await bench.admin.post(path, json={"machines": names})
            assert again.json() == answer.json()
            out = await bench.admin.post(path, json={"machines": names[:2], "remove": True})
            assert out.json() == {name: [] for name in names[:2]}
            gone = await bench.admin.post(path, json={"machines": names, "remove": True})
            assert gone.status_code == 400
            assert gone.json()["detail"] == f"{names[0]}, {names[1]} are not in group room-101"
            last = await bench.admin.post(path, json={"machines": names[2:], "remove": True})
            assert last.json() == {names[2]: []}
            deployed = await bench.admin.post("/api/v1/deploy", json={"image": "golden", "to": ["room-101"]})
            assert deployed.status_code == 404

    run(story())


def test_group_of_every_machine_and_names_of_machines_are_refused_as_groups(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory())
            for name, status in (("all", 400), (registration.name, 409), ("Room", 422), ("a b", 422)):
                body = {"machines": [registration.name]}
                assert (await bench.admin.post(f"/api/v1/groups/{name}/members", json=body)).status_code == status, name

    run(story())


def test_every_listed_template_renders(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory())
            names = (await bench.admin.get("/api/v1/templates")).json()
            assert "unattend" in names
            for name in names:
                answer = await bench.admin.post(f"/api/v1/templates/{name}/render", json={"machine": registration.name})
                assert answer.status_code == 200, name

    run(story())


def test_event_stream_tells_every_change_and_ends_with_the_session(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, machine = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            session = await bench.deploy("golden", registration.name)

            async def watch() -> list[str]:
                states = []
                async with bench.admin.stream("GET", f"/api/v1/sessions/{session['id']}/events") as response:
                    assert response.headers["content-type"].startswith("text/event-stream")
                    async for line in response.aiter_lines():
                        if line.startswith("data: "):
                            states.append(json.loads(line[6:])["tasks"][0]["state"])
                return states

            watching = asyncio.create_task(watch())
            task = decode(Task, (await machine.get("/agent/v1/task")).content)
            await machine.post(f"/agent/v1/tasks/{task.id}/result", content=done(manifest.hash.hex()))
            states = await asyncio.wait_for(watching, 20)
            assert states[-1] == "succeeded"

    run(story())


def test_openapi_describes_every_path(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            described = (await bench.admin.get("/openapi.json")).json()
            assert described["info"]["title"] == "Roomcast"
            assert {"/api/v1/deploy", "/api/v1/machines", "/api/v1/sessions/{session_id}"} <= set(described["paths"])
            assert "DeployRequest" in described["components"]["schemas"]
            assert (await bench.admin.get("/healthz")).json() == {"status": "ok"}

    run(story())


@pytest.mark.parametrize("firmware", list(FirmwareKind))
def test_unattend_is_rendered_for_the_firmware_of_the_machine(tmp_path: Path, firmware: FirmwareKind) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory(firmware=firmware))
            path = "/api/v1/templates/unattend/render"
            answer = await bench.admin.post(path, json={"machine": registration.name})
            assert answer.status_code == 200
            assert registration.name in "".join(ElementTree.fromstring(answer.text).itertext())
            assert ("EFI" in answer.text) is (firmware is FirmwareKind.UEFI)
            unknown = await bench.admin.post("/api/v1/templates/nosuch/render", json={"machine": registration.name})
            assert unknown.status_code == 404 and "unattend" in unknown.json()["detail"]

    run(story())


def test_image_is_captured_from_a_file_of_the_appliance_and_verified(tmp_path: Path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(b"\1" * 3_000_000)

    async def story() -> None:
        async with a_bench(tmp_path / "data") as bench:
            made = await bench.admin.post("/api/v1/images/capture", json={"source": str(source), "name": "disk"})
            assert made.status_code == 200, made.text
            assert (made.json()["name"], made.json()["version"]) == ("disk", 1)
            verified = await bench.admin.post("/api/v1/images/disk/verify", json={})
            assert verified.json()["ok"] is True
            missing = {"source": str(tmp_path / "nosuch"), "name": "disk"}
            refused = await bench.admin.post("/api/v1/images/capture", json=missing)
            assert 400 <= refused.status_code < 500, refused.text
            assert "nosuch" in refused.json()["detail"]
            assert (await bench.admin.get("/api/v1/images/disk")).json()["version"] == 1
            assert (await bench.admin.get("/api/v1/images/disk", params={"version": 9})).status_code == 404

    run(story())


def test_unforeseen_error_does_not_leak_into_an_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for path in ("/api/v1/sessions/0", "/api/v1/sessions/99999999999999", "/api/v1/tasks/x"):
                assert (await bench.admin.get(path)).status_code == 422
            assert (await bench.admin.get("/api/v1/sessions/7")).status_code == 404

    run(story())
