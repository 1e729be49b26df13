"""The app on the served interface: boot files and the agents' API. See imager/wire/messages.py for the paths.

Only this port is open to the machines' network. Every body is bounded; a machine is known by its bearer token.
"""

import re
from pathlib import Path
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse, Response

from imager.errors import MessageError
from imager.wire.messages import (
    CHUNK,
    MANIFEST,
    PROGRESS,
    PUBLISH,
    READY,
    REGISTER,
    RESULT,
    TASK,
    Inventory,
    Progress,
    TaskResult,
    decode,
    encode,
)
from netboot.api.bodies import add_error_handlers, read_body
from netboot.api.boot_files import BYTES, answer_with, no_such_file
from netboot.api.boot_tree import FetchLog
from netboot.api.inventory import check_inventory, check_progress, check_result
from netboot.deployment.agents import LONGEST_WAIT_S, Agents
from netboot.deployment.captures import LARGEST_STORED_BYTES
from netboot.model import Ignored

LARGEST_INVENTORY_BYTES = 256 * 1024
LARGEST_PROGRESS_BYTES = 16 * 1024
LARGEST_RESULT_BYTES = 2 * 1024 * 1024
LARGEST_BITMAP_BYTES = 8 * 1024 * 1024
LARGEST_MANIFEST_BYTES = 256 * 1024 * 1024

JSON = "application/json"
LARGEST_ID = 2**31 - 1


class BootTree(Protocol):
    """The boot files as this app serves them."""

    @property
    def fetches(self) -> FetchLog | None: ...

    def open_http(self, path: str, peer: str) -> bytes | Path | Ignored:
        """The file at `path` (without /boot/) for the client with this address."""


class NotAuthenticated(Exception):
    """The request has no token of a machine."""


def build_agent_app(agents: Agents, boot: BootTree) -> FastAPI:
    """The app; it holds no state of its own."""
    app = FastAPI(title="Roomcast agents", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_handlers(app)

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "no valid token: register first"}, 401, {"WWW-Authenticate": "Bearer"})

    app.add_exception_handler(NotAuthenticated, refuse)

    async def machine_of(request: Request) -> int:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or len(token) > 200:
            raise NotAuthenticated
        machine_id = await agents.authenticate(token.strip())
        if machine_id is None:
            raise NotAuthenticated
        return machine_id

    Machine = Annotated[int, Depends(machine_of)]
    TaskId = Annotated[int, PathParameter(ge=1, le=LARGEST_ID)]

    @app.post(REGISTER)
    async def register(request: Request) -> Response:
        body = await read_body(request, LARGEST_INVENTORY_BYTES)
        inventory = check_inventory(decode(Inventory, body))
        return Response(encode(await agents.register(inventory, _peer(request))), media_type=JSON)

    @app.get(TASK)
    async def task(machine: Machine, wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)] = 0.0) -> Response:
        return Response(encode(await agents.next_task(machine, wait)), media_type=JSON)

    @app.post(PROGRESS)
    async def progress(request: Request, machine: Machine, task_id: TaskId) -> Response:
        body = await read_body(request, LARGEST_PROGRESS_BYTES)
        answer = await agents.progress(machine, task_id, check_progress(decode(Progress, body)), _peer(request))
        return Response(encode(answer), media_type=JSON) if answer.again else Response(status_code=204)

    @app.post(RESULT)
    async def result(request: Request, machine: Machine, task_id: TaskId) -> Response:
        await agents.check_takes_result(machine, task_id)
        body = await read_body(request, LARGEST_RESULT_BYTES)
        await agents.result(machine, task_id, check_result(decode(TaskResult, body)))
        return Response(status_code=204)

    @app.get(MANIFEST)
    async def manifest(machine: Machine, task_id: TaskId) -> Response:
        return Response(await agents.manifest(machine, task_id), media_type=BYTES)

    @app.post(READY)
    async def ready(request: Request, machine: Machine, task_id: TaskId, unheard: bool = False) -> Response:
        await agents.check_running(machine, task_id)
        admission = await agents.ready(machine, task_id, await read_body(request, LARGEST_BITMAP_BYTES), unheard)
        return Response(encode(admission), media_type=JSON)

    @app.head(CHUNK)
    async def has_chunk(machine: Machine, task_id: TaskId, hash: str) -> Response:
        held = await agents.has_chunk(machine, task_id, _chunk_hash(hash))
        return Response(status_code=200 if held else 404)

    @app.get(CHUNK)
    async def get_chunk(machine: Machine, task_id: TaskId, hash: str) -> Response:
        return Response(await agents.chunk(machine, task_id, _chunk_hash(hash)), media_type=BYTES)

    @app.put(CHUNK)
    async def put_chunk(request: Request, machine: Machine, task_id: TaskId, hash: str) -> Response:
        chunk = _chunk_hash(hash)
        await agents.check_capturing(machine, task_id)
        await agents.put_chunk(machine, task_id, chunk, await read_body(request, LARGEST_STORED_BYTES))
        return Response(status_code=204)

    @app.post(PUBLISH)
    async def publish(request: Request, machine: Machine, task_id: TaskId) -> Response:
        await agents.check_capturing(machine, task_id)
        await agents.publish(machine, task_id, await read_body(request, LARGEST_MANIFEST_BYTES))
        return Response(status_code=204)

    @app.api_route("/boot/{path:path}", methods=["GET", "HEAD"])
    def boot_file(request: Request) -> Response:
        path = request.scope["path"].removeprefix("/boot/")  # the router would forgive a line's end
        content = boot.open_http(path, _peer(request))
        return no_such_file() if isinstance(content, Ignored) else answer_with(content, request, path, boot.fetches)

    return app


def _peer(request: Request) -> str:
    """Who asks: an IPv4 address."""
    return request.client.host if request.client else ""


def _chunk_hash(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise MessageError("a chunk is named by 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)
