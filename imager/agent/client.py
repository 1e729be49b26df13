"""The agent's side of the conversation with the appliance: HTTP with a token, tried again where that helps.

Blocking; one connection a thread. It knows paths and answers, and decides nothing about tasks.
"""

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable

from imager.errors import ApplianceError
from imager.wire import messages
from imager.wire.messages import (
    Admission,
    Inventory,
    Progress,
    ProgressAnswer,
    Registration,
    Task,
    TaskResult,
    decode,
    encode,
)

REQUEST_TIMEOUT_S = 20.0
"""Of one request without an answer."""
PATIENCE_S = 90.0
"""How long a step outlasts an appliance that is being restarted."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

_JSON = "application/json"
_BYTES = "application/octet-stream"


class Refused(ApplianceError):
    """The appliance understood and said no: trying again is useless."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the appliance refused with status {status}: {reason}")
        self.status = status


class TaskGone(ApplianceError):
    """The appliance no longer wants this task: it was cancelled, or failed on its side."""


class ApplianceClient:
    """Speaks to one appliance as one machine. Every method may be called from any thread.

    A token that the appliance no longer knows (it was set up anew, or another agent of this machine registered) is
    replaced by registering again, once a request. Raises ApplianceError when the appliance stays away longer than
    the request's patience, Refused, TaskGone, or MessageError when what answers is not an appliance.
    """

    def __init__(self, server: str, inventory: Callable[[], Inventory], say: Callable[[str], None]) -> None:
        """server: http://ADDRESS[:PORT]. `inventory` is asked at each registration; `say` gets a line of trouble."""
        parts = urllib.parse.urlsplit(server)
        if parts.scheme != "http" or not parts.hostname:
            raise ApplianceError(f"roomcast.server={server!r} on the kernel command line is not http://ADDRESS:PORT")
        self._host, self._port = parts.hostname, parts.port or 80
        self._inventory = inventory
        self._say = say
        self._local = threading.local()
        self._lock = threading.Lock()
        self._token = ""

    def register(self, patience_s: float | None = None) -> Registration:
        """Say who we are. None: until it succeeds."""
        with self._lock:
            return self._register(patience_s)

    def next_task(self, wait_s: float) -> Task:
        """The next task, or one of kind `wait` after `wait_s`. Returns only when the appliance answered."""
        path = f"{messages.TASK}?wait={wait_s:g}"
        return decode(Task, self._authorised("GET", path, patience_s=None, timeout_s=wait_s + REQUEST_TIMEOUT_S))

    def progress(self, task_id: int, progress: Progress) -> ProgressAnswer:
        """One heartbeat; not tried again, the next one says more."""
        path = messages.PROGRESS.format(task_id=task_id)
        answer = self._authorised("POST", path, encode(progress), patience_s=0, timeout_s=5)
        return decode(ProgressAnswer, answer) if answer else ProgressAnswer()

    def result(self, task_id: int, result: TaskResult) -> None:
        """How the task ended. Returns only when the appliance knows, or no longer cares (TaskGone)."""
        self._authorised("POST", messages.RESULT.format(task_id=task_id), encode(result), patience_s=None)

    def manifest(self, task_id: int) -> bytes:
        """The signed manifest, not yet checked."""
        return self._authorised("GET", messages.MANIFEST.format(task_id=task_id), timeout_s=120)

    def ready(self, task_id: int, bitmap: bytes, unheard: bool = False) -> Admission:
        """We lack what `bitmap` says: where it comes from. `unheard`: casts do not reach us. Returns only when the
        appliance answered.
        """
        path = messages.READY.format(task_id=task_id) + ("?unheard=true" if unheard else "")
        return decode(Admission, self._authorised("POST", path, bitmap, kind=_BYTES, patience_s=None))

    def chunk(self, task_id: int, chunk_hash: bytes) -> bytes:
        """The stored bytes of one chunk of the image, not yet checked. Returns only when the appliance answered."""
        path = messages.CHUNK.format(task_id=task_id, hash=chunk_hash.hex())
        return self._authorised("GET", path, patience_s=None, timeout_s=60)

    def has_chunk(self, task_id: int, chunk_hash: bytes) -> bool:
        """Whether the appliance holds this chunk already."""
        path = messages.CHUNK.format(task_id=task_id, hash=chunk_hash.hex())
        try:
            self._authorised("HEAD", path)
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def put_chunk(self, task_id: int, chunk_hash: bytes, stored: bytes) -> None:
        """Hand over one compressed chunk. Harmless to repeat."""
        path = messages.CHUNK.format(task_id=task_id, hash=chunk_hash.hex())
        self._authorised("PUT", path, stored, kind=_BYTES, timeout_s=60)

    def publish(self, task_id: int, manifest: bytes) -> None:
        """Make a new version of the chunks that were handed over."""
        self._authorised("POST", messages.PUBLISH.format(task_id=task_id), manifest, kind=_BYTES, timeout_s=600)

    def _register(self, patience_s: float | None) -> Registration:
        answer = self._patiently("POST", messages.REGISTER, encode(self._inventory()), _JSON, patience_s)
        registration = decode(Registration, answer)
        self._token = registration.token
        return registration

    def _authorised(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        kind: str = _JSON,
        patience_s: float | None = PATIENCE_S,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        token = self._token
        try:
            return self._patiently(method, path, body, kind, patience_s, timeout_s)
        except Refused as refused:
            if refused.status != 401:
                raise
        with self._lock:
            if self._token == token:  # else another thread registered meanwhile
                self._say("the appliance does not know this machine any more: registering again")
                self._register(patience_s)
        return self._patiently(method, path, body, kind, patience_s, timeout_s)

    def _patiently(
        self,
        method: str,
        path: str,
        body: bytes,
        kind: str,
        patience_s: float | None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> bytes:
        started = time.monotonic()
        pause_s = FIRST_PAUSE_S
        told = False
        while True:
            try:
                status, answer = self._exchange(method, path, body, kind, timeout_s)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"no answer from the appliance at {self._host}:{self._port} ({_reason_of(error)})"
            else:
                if 200 <= status < 300:
                    return answer
                reason = _reason(answer)
                if status == 410:
                    raise TaskGone(f"the appliance ended this task: {reason}")
                if status < 500 and status != 429:
                    raise Refused(status, reason)
                trouble = f"the appliance has trouble (status {status}: {reason})"
            if patience_s is not None and time.monotonic() - started + pause_s > patience_s:
                raise ApplianceError(trouble)
            if not told:
                self._say(f"{trouble}; trying again")
                told = True
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _exchange(self, method: str, path: str, body: bytes, kind: str, timeout_s: float) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        kept = connection is not None
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
            self._local.connection = connection
        headers = {"Content-Type": kind, "Authorization": f"Bearer {self._token}"} if self._token else {}
        headers.setdefault("Content-Type", kind)
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._forget(connection)
            if kept:  # a server may close a connection between two requests: that is not trouble
                return self._exchange(method, path, body, kind, timeout_s)
            raise
        except BaseException:
            self._forget(connection)
            raise

    def _forget(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None


def _reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _reason(answer: bytes) -> str:
    """The line of an error's body: `{"detail": "..."}` or text."""
    try:
        tree = json.loads(answer)
    except ValueError:
        return answer.decode(errors="replace").strip()[:200] or "no reason given"
    detail = tree.get("detail", tree) if isinstance(tree, dict) else tree
    return str(detail)[:200]
