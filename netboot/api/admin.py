"""The administrators' API on the unix socket: everything that changes something. OpenAPI at /openapi.json.

Who may open the socket may do all of this; nothing of it is reachable by the network.
"""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi import Path as PathParameter
from fastapi.responses import PlainTextResponse, StreamingResponse

from netboot.api.bodies import add_error_handlers
from netboot.api.boot_log import add_boot_log
from netboot.api.inventory import check_device
from netboot.api.requests import (
    BootWayRequest,
    CaptureRequest,
    DeployRequest,
    GroupName,
    GroupsRequest,
    ImageName,
    LibraryRequest,
    MembersRequest,
    RenameRequest,
    RenderRequest,
    VerifyRequest,
)
from netboot.boot.render import Renderer
from netboot.deployment.boot_log import BootHistory
from netboot.deployment.library import Library
from netboot.deployment.live import Changes
from netboot.deployment.orders import DeployOrder, Orders
from netboot.deployment.overview import Overview
from netboot.deployment.states import OPEN_SESSION_STATES
from netboot.deployment.templates import list_template_names, render_for_machine
from netboot.model import Way
from netboot.services.counters import PacketCounters

STREAM_INTERVAL_S = 0.5
"""A stream tells at most this often."""
STREAM_SILENCE_S = 5.0
"""And at least this often."""
LARGEST_ID = 2**31 - 1

Id = Annotated[int, PathParameter(ge=1, le=LARGEST_ID)]
Name = Annotated[str, PathParameter(min_length=1, max_length=63)]


@dataclasses.dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """What the appliance is on one interface."""

    name: str
    address: str
    """With its prefix."""
    role: str
    """In DHCP: server, proxy or off."""
    why: str
    """It is that, for a person."""
    other_server: str
    """Another DHCP server that gives out addresses there: its address and MAC; empty: none was heard."""


@dataclasses.dataclass(frozen=True, slots=True)
class ApplianceFacts:
    """What serves, at one moment."""

    interface: str
    """The first."""
    address: str
    mode: str
    """As configured; what that comes to is in `interfaces`."""
    interfaces: tuple[InterfaceFacts, ...]
    counters: Mapping[str, PacketCounters]
    """Packets received, answered, ignored and dropped, by service."""


def build_admin_app(
    overview: Overview,
    orders: Orders,
    library: Library,
    changes: Changes,
    renderer: Renderer,
    max_wait_s: Callable[[], float],
    unicast: Callable[[], bool],
    facts: Callable[[], ApplianceFacts],
    boots: BootHistory,
) -> FastAPI:
    """The app; it holds no state of its own. `max_wait_s`, `unicast`: of a deployment that names none."""
    app = FastAPI(title="Roomcast", version="1", docs_url=None, redoc_url=None)
    add_error_handlers(app)
    add_boot_log(app, boots, lambda: facts().counters)

    @app.get("/healthz", tags=["appliance"])
    async def health() -> dict[str, str]:
        """Whether the appliance answers."""
        return {"status": "ok"}

    @app.get("/api/v1/status", tags=["appliance"])
    async def status() -> Any:
        """What serves where, and what its services counted: junk is counted and dropped."""
        now = facts()
        counters = {name: each.tree() for name, each in now.counters.items()}
        return {"version": installed_version("roomcast"), **_tree(now), "counters": counters}

    @app.get("/api/v1/machines", tags=["machines"])
    async def machines() -> Any:
        """Every machine, by name."""
        return [_tree(machine) for machine in await overview.machines()]

    @app.get("/api/v1/machines/{name}", tags=["machines"])
    async def machine(name: Name) -> Any:
        """One machine, by name or MAC."""
        return _tree(await overview.machine(name))

    @app.post("/api/v1/machines/{name}/rename", tags=["machines"])
    async def rename(name: Name, request: RenameRequest) -> Any:
        """Give a machine another name: it becomes its host name with the next deployment."""
        await orders.rename(name, request.name)
        return _tree(await overview.machine(request.name))

    @app.post("/api/v1/machines/{name}/boot-way", tags=["machines"])
    async def boot_way(name: Name, request: BootWayRequest) -> Any:
        """Which way a machine takes to its disk first; `auto`: what works on its model."""
        machine = await orders.set_boot_way(name, None if request.way == "auto" else Way(request.way))
        return _tree(await overview.machine(machine.name))

    @app.post("/api/v1/machines/{name}/groups", tags=["machines"])
    async def groups(name: Name, request: GroupsRequest) -> Any:
        """Put a machine into groups and take it out of others."""
        machine = await orders.set_groups(name, request.add, request.remove)
        return _tree(await overview.machine(machine.name))

    @app.post("/api/v1/groups/{group}/members", tags=["machines"])
    async def members(group: GroupName, request: MembersRequest) -> Any:
        """Put machines into a group or take them out of it, all or none; answers with their groups, by name."""
        changed = await orders.set_members(group, request.machines, remove=request.remove)
        return {machine.name: machine.groups for machine in changed}

    @app.get("/api/v1/images", tags=["images"])
    async def images() -> Any:
        """Every version of every image."""
        return [_tree(image) for image in await overview.images()]

    @app.get("/api/v1/images/{name}", tags=["images"])
    async def image(name: ImageName, version: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None) -> Any:
        """One version of an image, the newest when none is named."""
        return await library.describe(name, version)

    @app.post("/api/v1/images/capture", tags=["images"])
    async def capture_image(request: LibraryRequest) -> Any:
        """Make the next version of an image from a disk or an image file of the appliance."""
        return await library.capture(Path(request.source), request.name)

    @app.post("/api/v1/images/import", tags=["images"])
    async def import_image(request: LibraryRequest) -> Any:
        """Make the next version of an image from a WIM file of the appliance."""
        return await library.import_wim(Path(request.source), request.name)

    @app.post("/api/v1/images/{name}/verify", tags=["images"])
    async def verify(name: ImageName, request: VerifyRequest) -> Any:
        """Read every chunk of a version and check its hash."""
        return await library.verify(name, request.version)

    @app.post("/api/v1/deploy", tags=["sessions"], status_code=201)
    async def deploy(request: DeployRequest) -> Any:
        """Open a session that writes one image to some machines."""
        order = DeployOrder(
            image=request.image,
            version=request.version,
            to=request.to,
            target=check_device(request.target),
            min_receivers=request.min_receivers,
            max_wait_s=max_wait_s() if request.max_wait_s is None else request.max_wait_s,
            max_bitrate_bps=request.max_bitrate_bps,
            slow=request.slow,
            floor_bps=request.floor_bps,
            unicast=unicast() if request.unicast is None else request.unicast,
            after=request.after,
        )
        session, _ = await orders.deploy(order)
        return _tree(await overview.session(session.id))

    @app.post("/api/v1/capture", tags=["tasks"], status_code=201)
    async def capture(request: CaptureRequest) -> Any:
        """Give a machine the task to read its disk into the next version of an image."""
        source = check_device(request.source)
        return _tree(overview.task(await orders.capture(request.machine, request.image, source, request.after)))

    @app.get("/api/v1/sessions", tags=["sessions"])
    async def sessions(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Any:
        """The latest sessions, the newest first."""
        return [_tree(session) for session in await overview.sessions(limit)]

    @app.get("/api/v1/sessions/{session_id}", tags=["sessions"])
    async def session(session_id: Id) -> Any:
        """One session with its machines and events."""
        return _tree(await overview.session(session_id))

    @app.post("/api/v1/sessions/{session_id}/cancel", tags=["sessions"])
    async def cancel_session(session_id: Id) -> Any:
        """Cancel what is not done yet."""
        await orders.cancel_session(session_id)
        return _tree(await overview.session(session_id))

    @app.get("/api/v1/sessions/{session_id}/events", tags=["sessions"])
    async def session_events(session_id: Id) -> StreamingResponse:
        """Server-sent events: the session, whenever something of it changed, until it has ended."""
        await overview.session(session_id)

        async def stream() -> AsyncIterator[str]:
            seen = -1
            while not changes.stopping:
                view = await overview.session(session_id)
                yield f"data: {json.dumps(_tree(view))}\n\n"
                if view.state not in OPEN_SESSION_STATES:
                    return
                seen = await changes.next(seen, STREAM_INTERVAL_S, STREAM_SILENCE_S)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    @app.get("/api/v1/tasks", tags=["tasks"])
    async def tasks(open_only: bool = False) -> Any:
        """Tasks by number: all of late, or those that are pending or running."""
        return [_tree(task) for task in await overview.tasks(open_only=open_only)]

    @app.get("/api/v1/tasks/{task_id}", tags=["tasks"])
    async def task(task_id: Id) -> Any:
        """One task with its log and its proof."""
        return _tree(await overview.task_by_id(task_id))

    @app.post("/api/v1/tasks/{task_id}/cancel", tags=["tasks"])
    async def cancel_task(task_id: Id) -> Any:
        """End a task that is pending or running."""
        return _tree(overview.task(await orders.cancel_task(task_id)))

    @app.get("/api/v1/templates", tags=["templates"])
    async def templates() -> list[str]:
        """Names of the templates that can be rendered."""
        return list_template_names()

    @app.post("/api/v1/templates/{name}/render", tags=["templates"])
    async def render(name: Name, request: RenderRequest) -> PlainTextResponse:
        """What a machine would get."""
        machine = await overview.machine(request.machine)
        return PlainTextResponse(render_for_machine(renderer, name, machine.name, machine.inventory.firmware))

    return app


def _tree(value: Any) -> Any:
    """A view as JSON can tell it."""
    return dataclasses.asdict(value)
