"""Builders for tests of the appliance: a real one in a directory of its own, its clock in the test's hand."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import httpx
from blake3 import blake3
from fastapi import FastAPI
from inventories import an_inventory

from imager.image.chunks import Compressor
from imager.image.manifest import Chunk, Extent, ImageKind, Manifest
from imager.wire.messages import (
    Inventory,
    Proof,
    Registration,
    Task,
    TaskResult,
    decode,
    encode,
)
from netboot.api.admin import ApplianceFacts, build_admin_app
from netboot.api.agent import build_agent_app
from netboot.appliance import Appliance, build_appliance
from netboot.boot.render import Renderer
from netboot.config import Settings
from netboot.deployment.grouping import CastInterface
from netboot.deployment.outcomes import Clock
from netboot.model import Ignored
from netboot.services.counters import PacketCounters
from netboot.ui.pages import build_pages_app

WINDOW_BYTES = 4096
LOOPBACK = CastInterface("lo", IPv4Address("127.0.0.1"), IPv4Network("127.0.0.0/8"))


A, B = b"a" * 4096, b"b" * 4096
"""What two chunks of an image hold."""


async def next_task(client: httpx.AsyncClient, wait_s: float = 0) -> Task:
    """Ask for a machine's task, as its agent."""
    response = await client.get("/agent/v1/task", params={"wait": wait_s})
    assert response.status_code == 200, response.text
    return decode(Task, response.content)


def a_proof(manifest_hash: str, chunks: int = 1) -> Proof:
    return Proof(manifest_hash, "disk-1", chunks, 0, 20000, 3, 2, {"scan": 0.5, "receive": 2.0})


def an_image_of(*raws: bytes) -> tuple[list[tuple[bytes, bytes, int]], tuple[Chunk, ...]]:
    """Stored chunks as (hash, stored, raw length), and their rows of a manifest; every window whole."""
    stored = []
    rows = []
    for window, raw in enumerate(raws):
        digest, frame = blake3(raw).digest(), Compressor().compress(raw)
        stored.append((digest, frame, len(raw)))
        rows.append(Chunk(window, (Extent(window * WINDOW_BYTES, len(raw)),), digest, len(raw), len(frame)))
    return stored, tuple(rows)


def a_manifest(name: str, chunks: tuple[Chunk, ...]) -> Manifest:
    return Manifest(
        name=name,
        version=0,
        kind=ImageKind.SECTOR,
        created_s=1_700_000_000,
        source_bytes=WINDOW_BYTES * max(1, len(chunks)),
        sector_bytes=512,
        window_bytes=WINDOW_BYTES,
        layout=(),
        table="none",
        facts={},
        chunks=chunks,
    )


@dataclass
class HandClock:
    """A clock that goes when the test says so."""

    now_s: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


class NoBootFiles:
    """The seam of the boot files, for tests of the rest."""

    def __init__(self, files: dict[str, bytes | Path] | None = None) -> None:
        self._files = files or {}
        self.fetches = None

    def open_http(self, path: str, peer: str) -> bytes | Path | Ignored:
        return self._files.get(path, Ignored(f"no such file: {path}"))


@dataclass
class Bench:
    """An appliance with its three apps, talked to in the process."""

    appliance: Appliance
    clock: HandClock
    agent_app: FastAPI
    admin: httpx.AsyncClient
    pages: httpx.AsyncClient
    anonymous: httpx.AsyncClient
    counters: PacketCounters
    """Of DHCP."""
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    async def register(self, inventory: Inventory) -> tuple[Registration, httpx.AsyncClient]:
        """A machine that registered, and its client with its token."""
        response = await self.anonymous.post("/agent/v1/register", content=encode(inventory))
        assert response.status_code == 200, response.text
        registration = decode(Registration, response.content)
        client = client_of(self.agent_app, {"authorization": f"Bearer {registration.token}"})
        self._clients.append(client)
        return registration, client

    async def machine_waits(self, machine_id: int) -> None:
        """Return when the agent of this machine asks for a task and gets none."""
        async with asyncio.timeout(10):
            while not self.appliance.changes.is_waiting(machine_id):  # noqa: ASYNC110 (it tells nobody)
                await asyncio.sleep(0.001)

    def keep_image(self, name: str, *raws: bytes) -> Manifest:
        """Publish an image with these windows."""
        stored, rows = an_image_of(*raws)
        with self.appliance.images.store.writer() as writer:
            for digest, frame, length in stored:
                writer.put(digest, frame, length)
            return writer.publish(a_manifest(name, rows))

    async def deploy(self, image: str, *to: str, **more: Any) -> dict[str, Any]:
        response = await self.admin.post("/api/v1/deploy", json={"image": image, "to": list(to), **more})
        assert response.status_code == 201, response.text
        session: dict[str, Any] = response.json()
        return session

    async def deploying(self, *raws: bytes, **more: Any) -> tuple[httpx.AsyncClient, Manifest, dict[str, Any], Task]:
        """A machine that has taken the task to write the image "golden" of these windows; image and session of it."""
        registration, machine = await self.register(an_inventory())
        manifest = self.keep_image("golden", *raws)
        session = await self.deploy("golden", registration.name, **more)
        return machine, manifest, session, await next_task(machine)

    async def capturing(self) -> tuple[httpx.AsyncClient, Task]:
        """A machine that has taken the task to capture its disk as "room-a"."""
        registration, machine = await self.register(an_inventory())
        response = await self.admin.post("/api/v1/capture", json={"machine": registration.name, "image": "room-a"})
        assert response.status_code == 201, response.text
        return machine, await next_task(machine)


def client_of(app: FastAPI, headers: dict[str, str] | None = None, address: str = "10.77.0.50") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True, client=(address, 40000))
    return httpx.AsyncClient(transport=transport, base_url="http://appliance", headers=headers)


@asynccontextmanager
async def a_bench(
    directory: Path, boot: NoBootFiles | None = None, interfaces: Sequence[CastInterface] = (LOOPBACK,)
) -> AsyncIterator[Bench]:
    """A real appliance on 127.0.0.1 with its data in `directory`; its casts run, its watch does not."""
    clock = HandClock()
    settings = Settings(interfaces=("lo",), data=directory)
    appliance = build_appliance(settings, interfaces, Clock(clock, clock))
    counters = PacketCounters()
    agent_app = build_agent_app(appliance.agents, boot or NoBootFiles())
    admin_app = build_admin_app(
        appliance.overview,
        appliance.orders,
        appliance.library,
        appliance.changes,
        Renderer(None),
        lambda: settings.max_wait_s,
        lambda: settings.unicast,
        lambda: ApplianceFacts("lo", "127.0.0.1", "server", (), {"dhcp": counters}),
        appliance.boot_history,
    )
    pages_app = build_pages_app(appliance.overview, appliance.changes, appliance.boot_history)
    casting = asyncio.create_task(appliance.casts.run(appliance.cast_events))
    bench = Bench(
        appliance, clock, agent_app, client_of(admin_app), client_of(pages_app), client_of(agent_app), counters
    )
    try:
        yield bench
    finally:
        appliance.changes.stop()
        casting.cancel()
        await asyncio.gather(casting, return_exceptions=True)
        await appliance.close()
        for client in (bench.admin, bench.pages, bench.anonymous, *bench._clients):
            await client.aclose()


def done(manifest_hash: str, chunks: int = 1) -> bytes:
    return encode(TaskResult(True, "", ("wrote it",), a_proof(manifest_hash, chunks)))


def failed(reason: str) -> bytes:
    return encode(TaskResult(False, reason, ("last words",)))
