"""The control ports of sessions: of a range that a firewall can name, one each."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from deployment_builders import Bench, a_bench
from inventories import an_inventory

from imager.errors import CastError
from imager.image.manifest import Manifest
from netboot.config import CONTROL_PORTS, DATA_PORTS, Settings
from netboot.deployment.records import Session
from netboot.services import cast as cast_module
from netboot.services.cast import CastService

LOOPBACK = "127.0.0.1"
BASE = 27_000
NUMBER = 5 * CONTROL_PORTS + 40
ITS_PORT = BASE + 40


@asynccontextmanager
async def some_casts(directory: Path) -> AsyncIterator[tuple[CastService, Session, Manifest]]:
    """Casts of their own at `BASE`, a session to be opened there, and its image."""
    async with a_bench(directory) as bench:
        manifest, session = await a_session(bench)
        casts = CastService(bench.appliance.images, bench.clock, BASE)
        try:
            yield casts, session, manifest
        finally:
            await casts.close_all()


async def a_session(bench: Bench) -> tuple[Manifest, Session]:
    manifest = bench.keep_image("golden", b"a" * 4096)
    await bench.register(an_inventory())
    told = await bench.deploy("golden", "all")
    assert told["id"] == 1
    return manifest, dataclasses.replace(bench.appliance.sessions.session(1), number=NUMBER)


async def port_of(casts: CastService, session: Session) -> int:
    """Where its receivers talk to."""
    admission = await casts.ready(session.id, 1, b"\x80")
    assert admission.cast is not None
    return admission.cast.control_port


def test_session_answers_at_a_port_of_the_range_that_follows_from_its_number(tmp_path: Path) -> None:
    async def story() -> None:
        async with some_casts(tmp_path) as (casts, session, manifest):
            await casts.open(session, manifest, [1], LOOPBACK)
            assert await port_of(casts, session) == ITS_PORT

    asyncio.run(story())


def test_port_that_another_program_has_or_another_session_was_promised_is_passed_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with some_casts(tmp_path) as (casts, session, manifest):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind((LOOPBACK, ITS_PORT))
                sessions = [dataclasses.replace(session, id=number) for number in (1, 2, 3)]
                await asyncio.gather(*(casts.open(one, manifest, [1], LOOPBACK) for one in sessions))
                ports = sorted([await port_of(casts, one) for one in sessions])
                assert ports == [ITS_PORT + 1, ITS_PORT + 2, ITS_PORT + 3]

    asyncio.run(story())


def test_range_that_is_used_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast_module, "CONTROL_PORTS", 1)

    async def story() -> None:
        async with some_casts(tmp_path) as (casts, session, manifest):
            await casts.open(session, manifest, [1], LOOPBACK)
            with pytest.raises(CastError, match="all in use: wait for a session to end"):
                await casts.open(dataclasses.replace(session, id=2), manifest, [1], LOOPBACK)
            await casts.close(session.id)
            await casts.open(dataclasses.replace(session, id=2), manifest, [1], LOOPBACK)

    asyncio.run(story())


def test_ports_of_sessions_do_not_meet() -> None:
    settings = Settings(interfaces=("eth1",))
    control = range(settings.control_port_base, settings.control_port_base + CONTROL_PORTS)
    data = range(settings.data_port_base, settings.data_port_base + DATA_PORTS)
    assert (control, data) == (range(7101, 7200), range(7400, 7656))  # as README.md tells who sets up a firewall
