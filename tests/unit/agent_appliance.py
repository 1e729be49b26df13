"""An appliance for the agent's tests: a real HTTP server in a thread, which keeps what agents tell it.

It knows the paths of imager.wire.messages and nothing about sessions; `on_ready` starts a cast, when a test has one.
"""

import json
import queue
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from imager.wire import messages
from imager.wire.messages import (
    Admission,
    Inventory,
    Progress,
    ProgressAnswer,
    Task,
    TaskKind,
    TaskResult,
    decode,
    encode,
)


@dataclass
class Appliance:
    """Start it with `with`. Everything it was told is in its fields."""

    address: str = "127.0.0.1"
    port: int = 0
    machine_name: str = "lab-01"
    manifest: bytes = b""
    on_ready: Callable[[bytes], Admission] | None = None
    registrations: list[Inventory] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each."""
    progress: list[Progress] = field(default_factory=list)
    results: list[TaskResult] = field(default_factory=list)
    ready: list[bytes] = field(default_factory=list)
    chunks: dict[str, bytes] = field(default_factory=dict)
    published: list[bytes] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    """Given, one after the other, before any real answer: a status and a body; status 0 cuts the connection."""
    cancelled: bool = False
    """Heartbeats are answered by 410."""
    cast_is_over: bool = False
    """Heartbeats are told to ask again."""
    tasks: "queue.Queue[Task]" = field(default_factory=queue.Queue)
    result_told: threading.Event = field(default_factory=threading.Event)
    token: str = ""

    def __enter__(self) -> "Appliance":
        appliance = self

        class Handler(_Handler):
            pass

        Handler.appliance = appliance
        self._server = ThreadingHTTPServer((self.address, self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def forget_machines(self) -> None:
        """As an appliance that was set up anew."""
        self.token = "nobody has this"


class _Handler(BaseHTTPRequestHandler):
    appliance: Appliance
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.appliance.requests.append((self.command, self.path))
        if self.appliance.answers:
            status, answer = self.appliance.answers.pop(0)
            if status == 0:
                self.close_connection = True
                return
            self._answer(status, answer)
            return
        self._answer(*self._respond(body))

    def _respond(self, body: bytes) -> tuple[int, bytes]:
        appliance = self.appliance
        if self.path == messages.REGISTER:
            appliance.registrations.append(decode(Inventory, body))
            appliance.token = f"1.token{len(appliance.registrations)}"
            answer = {"machine_id": 1, "name": appliance.machine_name, "token": appliance.token}
            return 200, json.dumps(answer).encode()
        if self.headers.get("Authorization") != f"Bearer {appliance.token}":
            return 401, b'{"detail": "unknown token"}'
        if self.path.startswith(messages.TASK + "?"):
            wait_s = float(self.path.split("wait=")[1])
            try:
                return 200, encode(appliance.tasks.get(timeout=wait_s))
            except queue.Empty:
                return 200, encode(Task(0, TaskKind.WAIT))
        match = re.fullmatch(r"/agent/v1/tasks/(\d+)/(\w+)(?:/([0-9a-f]{64}))?", self.path.partition("?")[0])
        if match is None:
            return 404, b'{"detail": "no such path"}'
        return self._respond_to_task(match[2], match[3] or "", body)

    def _respond_to_task(self, what: str, chunk: str, body: bytes) -> tuple[int, bytes]:
        appliance = self.appliance
        if what == "progress":
            if appliance.cancelled:
                return 410, b'{"detail": "cancelled by a person"}'
            appliance.progress.append(decode(Progress, body))
            if appliance.cast_is_over:
                return 200, encode(ProgressAnswer(again=True))
        elif what == "result":
            appliance.results.append(decode(TaskResult, body))
            appliance.result_told.set()
        elif what == "manifest":
            return 200, appliance.manifest
        elif what == "ready":
            appliance.ready.append(body)
            return 200, encode(appliance.on_ready(body) if appliance.on_ready else Admission())
        elif what == "chunks" and self.command == "HEAD":
            return (200 if chunk in appliance.chunks else 404), b""
        elif what == "chunks" and self.command == "GET":
            return 200, appliance.chunks[chunk]
        elif what == "chunks":
            appliance.chunks[chunk] = body
        elif what == "publish":
            appliance.published.append(body)
        return 204, b""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
