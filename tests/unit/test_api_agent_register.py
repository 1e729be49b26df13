"""How machines register by the agents' API, and who is refused; the real app and database, without a network."""

import asyncio
import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from deployment_builders import A, a_bench, client_of, next_task
from inventories import an_inventory

from imager.wire.messages import Nic, Progress, Registration, decode, encode
from netboot.dhcp.leases import Lease, LeaseState

UUID = "4c4c4544-0051-3510-8052-b4c04f4e3332"


def test_machine_registers_under_a_name_made_of_its_mac(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory("52:54:00:ab:cd:ef"))
            assert registration.name == "pc-abcdef"
            again, _ = await bench.register(an_inventory("52:54:00:ab:cd:ef"))
            assert again.machine_id == registration.machine_id
            assert again.token != registration.token

    asyncio.run(story())


def test_new_registration_ends_the_old_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            _, old = await bench.register(an_inventory())
            _, new = await bench.register(an_inventory())
            assert (await old.get("/agent/v1/task")).status_code == 401
            assert (await new.get("/agent/v1/task")).status_code == 200

    asyncio.run(story())


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

    asyncio.run(story())


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

    asyncio.run(story())


def test_padded_firmware_texts_are_cleaned_so_that_the_machine_still_registers(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, _ = await bench.register(an_inventory(serial="X1\x00\x00", product="P" * 5000))
            facts = (await bench.admin.get(f"/api/v1/machines/{registration.name}")).json()["inventory"]
            assert facts["serial"] == "X1"
            assert facts["product"] == "P" * 256

    asyncio.run(story())


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

    asyncio.run(story())


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

    asyncio.run(story())


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

    asyncio.run(story())


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

    asyncio.run(story())


def test_stranger_does_not_register_as_a_machine_that_has_a_lease_by_naming_its_other_card_or_its_uuid(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            leases, mac, own = bench.appliance.leases, "52:54:00:00:00:01", "06:00:00:00:00:66"
            lease = Lease(mac, IPv4Address("10.77.0.50"), leases.clock() + 3600)
            leases.table.save(lease)
            registration, machine = await bench.register(an_inventory(mac, system_uuid=UUID))
            stranger = client_of(bench.agent_app, address="10.77.0.66")
            both = (Nic("e0", own, "", 0), Nic("e1", mac, "", 0))
            by_card = encode(an_inventory(own, address="10.77.0.66", nics=both, system_uuid=UUID))
            by_uuid = encode(an_inventory(own, address="10.77.0.66", system_uuid=UUID))
            for inventory in (by_card, by_uuid):
                refused = await stranger.post("/agent/v1/register", content=inventory)
                assert refused.status_code == 409
                assert f"the machine of {mac}, which has the address 10.77.0.50" in refused.json()["detail"]
            assert (await machine.get("/agent/v1/task")).status_code == 200, "its token holds"
            leases.table.save(replace(lease, expires_s=leases.clock() - 1))  # its card was replaced
            answer = await stranger.post("/agent/v1/register", content=by_uuid)
            assert decode(Registration, answer.content).machine_id == registration.machine_id
            await stranger.aclose()

    asyncio.run(story())


def test_administration_is_not_on_the_machines_network(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for path in ("/api/v1/machines", "/api/v1/deploy", "/openapi.json", "/docs", "/"):
                assert (await bench.anonymous.get(path)).status_code == 404
                assert (await bench.anonymous.post(path)).status_code in (404, 405)

    asyncio.run(story())
