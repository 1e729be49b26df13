"""[S] HTTP servers inside the appliance's own task group: TCP on an address, or a unix socket.

The apps are ASGI apps; this module binds, tells in one line why it cannot, and shuts down gracefully.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from netboot.errors import ServiceError
from netboot.services.connections import Door, Limits, guarded_protocol
from netboot.services.sendfile import FileSender, SendFile

SHUTDOWN_S = 3
"""Requests under way get this long when the appliance ends."""
IDLE_S = 75
"""An idle connection is closed: longer than a question for a task waits."""
BACKLOG = 512


class _Server(uvicorn.Server):
    """A server that leaves the signals to the appliance."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _SpelledHeaders:
    """Sends header names as `Content-Length`, though ASGI gives them in lower case.

    GRUB 2.06 compares them letter by letter: without that one it takes a file's size for unknown and waits for more
    until it times out.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def spelled(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [(_spell(name), value) for name, value in message["headers"]]}
            await send(message)

        await self._app(scope, receive, spelled)


def _spell(name: bytes) -> bytes:
    return b"-".join(part.capitalize() for part in name.split(b"-"))


def bind_tcp(address: str, port: int) -> socket.socket:
    """A listening socket. Raises ServiceError when the port is in use, the address is not ours, or for privilege."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ServiceError(_why(error, address, port)) from error
    return sock


def bind_unix(path: Path) -> socket.socket:
    """A listening socket that only its owner may use; one that nobody listens to any more is replaced."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # whoever may not use the socket shall be told so
        if path.is_socket():
            if _answers(path):
                raise ServiceError(f"{path} is in use by another appliance: stop it, or name another with --socket")
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(mask)
        sock.listen(BACKLOG)
    except OSError as error:
        raise ServiceError(f"{path}: {error.strerror or error}; name another socket with --socket") from error
    return sock


async def serve_http(
    app: Any, sock: socket.socket, limits: Limits | None = None, sendfile: SendFile = os.sendfile
) -> None:
    """Serve `app` on a listening socket until cancelled; then finish what is under way and close the socket."""
    files = FileSender(sendfile)
    config = uvicorn.Config(
        _SpelledHeaders(app),
        http=guarded_protocol(Door(limits or Limits()), files),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ws="none",
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        sock.close()
        files.close()


def _why(error: OSError, address: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {address} is in use: stop the other server (`ss -ltnp`), or take another port"
        case errno.EADDRNOTAVAIL:
            return f"{address} is not an address of this machine"
        case errno.EACCES | errno.EPERM:
            return f"port {port} needs root: run it with sudo, or take a port above 1023"
        case _:
            return f"{address} port {port}: {error.strerror}"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
