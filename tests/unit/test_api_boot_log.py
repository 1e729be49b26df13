"""The boot log in the administrators' API."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from deployment_builders import a_bench
from dhcp_builders import MAC, a_discover, an_arrival
from inventories import an_inventory

from netboot.model import Ignored


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


def test_boots_of_a_machine_are_found_by_mac_and_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            log = bench.appliance.boot_log
            assert (await bench.admin.get(f"/api/v1/boot-log/machines/{MAC}")).json() == []
            log.exchanged(a_discover(0), an_arrival(), Ignored("pool exhausted"))
            registration, _ = await bench.register(an_inventory(MAC))
            for name in (MAC, MAC.upper().replace(":", "-"), registration.name):
                (boot,) = (await bench.admin.get(f"/api/v1/boot-log/machines/{name}")).json()
                assert boot["mac"] == MAC and boot["machine"] == registration.name
                assert [line["label"] for line in boot["lines"]] == ["firmware", "agent"]
                assert boot["entries"][0]["why"] == "pool exhausted"

    run(story())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("machines/pc-99", 404),
        ("machines/pc-99/events", 404),
        (f"machines/{'x' * 64}", 422),
        (f"machines/{MAC}?count=0", 422),
        (f"machines/{MAC}?count=21", 422),
        (f"machines/{MAC}?count=many", 422),
    ],
)
def test_what_cannot_be_asked_has_its_error(tmp_path: Path, path: str, status: int) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            answer = await bench.admin.get(f"/api/v1/boot-log/{path}")
            assert answer.status_code == status
            assert answer.json()["detail"]

    run(story())


def test_what_got_no_answer_is_told_by_sender_and_counted_by_service(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            log = bench.appliance.boot_log
            log.exchanged(a_discover(0), an_arrival(), Ignored("pool exhausted"))
            log.junk("10.9.9.9", "too short: 3 bytes")
            bench.counters.ignore("pool exhausted: all")
            bench.counters.junk += 2
            told = (await bench.admin.get("/api/v1/boot-log/ignored")).json()
            assert [(p["source"], p["what"], p["reason"]) for p in told["packets"]] == [
                ("10.9.9.9", "DHCP port", "not a DHCP packet: too short: 3 bytes"),
                (MAC, "DHCP DISCOVER", "pool exhausted"),
            ]
            assert told["counted"] == [
                {"service": "dhcp", "reason": "not of this protocol", "count": 2},
                {"service": "dhcp", "reason": "pool exhausted", "count": 1},
            ]

    run(story())
