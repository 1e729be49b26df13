"""The agents' side of the deployment: register, take a task, tell of it, end it."""

import asyncio
import hashlib
import hmac
import secrets

import structlog

from imager.image.plan import count_lacking, parse_bitmap
from imager.wire.messages import (
    CaptureTask,
    DeployTask,
    Identity,
    Inventory,
    Progress,
    Registration,
    Task,
    TaskKind,
    TaskResult,
)
from netboot.deployment.captures import Captures
from netboot.deployment.images import Images
from netboot.deployment.live import Board, Changes
from netboot.deployment.outcomes import Casts, Clock, Outcomes
from netboot.deployment.records import Session, TaskRecord
from netboot.deployment.states import OPEN_TASK_STATES
from netboot.errors import ConflictError, UnknownError
from netboot.model import TaskState
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository

LONGEST_WAIT_S = 60.0
"""Of one question for a task."""

log = structlog.get_logger()


class TaskEnded(ConflictError):
    """The task is over, cancelled or failed: the agent must stop it."""


class Agents:
    """Answers the agents. Machines are known by their token, and touch only their own tasks."""

    def __init__(
        self,
        database: Database,
        machines: MachineRepository,
        sessions: SessionRepository,
        images: Images,
        captures: Captures,
        casts: Casts,
        outcomes: Outcomes,
        board: Board,
        changes: Changes,
        clock: Clock,
    ) -> None:
        self._database = database
        self._machines = machines
        self._sessions = sessions
        self._images = images
        self._captures = captures
        self._casts = casts
        self._outcomes = outcomes
        self._board = board
        self._changes = changes
        self._clock = clock

    async def register(self, inventory: Inventory) -> Registration:
        """Know the machine, and give it a new token that ends its old one."""
        secret = secrets.token_hex(32)
        machine, new = await self._database.run(self._machines.register, inventory, _digest(secret), self._clock.wall())
        text = f"{machine.name} registered" + (" for the first time" if new else "")
        await self._database.run(self._sessions.add_event, text, self._clock.wall(), machine_id=machine.id)
        log.info("machine registered", machine=machine.name, mac=inventory.boot_mac, new=new, boot_s=inventory.boot_s)
        task = await self._database.run(self._sessions.open_task, machine.id)
        if task is not None and task.state is TaskState.RUNNING:
            self._board.heard(task.id, self._clock.monotonic())
        self._changes.tell()
        return Registration(machine.id, machine.name, f"{machine.id}.{secret}")

    async def authenticate(self, token: str) -> int | None:
        """The machine whose token this is, None when it is nobody's. The comparison takes the same time for all."""
        head, dot, secret = token.partition(".")
        if not dot or not head.isascii() or not head.isdigit() or len(head) > 18:
            return None
        expected = await self._database.run(self._machines.token_digest, int(head))
        held = hmac.compare_digest(_digest(secret), expected or "0" * 64)
        return int(head) if held and expected is not None else None

    async def next_task(self, machine_id: int, wait_s: float) -> Task:
        """The machine's task, as soon as there is one; kind WAIT after `wait_s`, at most 60 s.

        A task that runs already is given again: the machine was started anew and goes on where its disk is.
        """
        deadline = self._clock.monotonic() + min(max(wait_s, 0.0), LONGEST_WAIT_S)
        event = self._changes.machine_event(machine_id)
        try:
            while True:
                if (task := await self._database.run(self._sessions.open_task, machine_id)) is not None:
                    return await self._hand_out(task)
                left = deadline - self._clock.monotonic()
                if left <= 0 or self._changes.stopping:
                    return Task(0, TaskKind.WAIT)
                try:
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    continue
                if self._changes.is_replaced(machine_id, event):
                    return Task(0, TaskKind.WAIT)
                event.clear()
        finally:
            self._changes.drop_event(machine_id, event)

    async def progress(self, machine_id: int, task_id: int, progress: Progress) -> None:
        """Raises UnknownError for another's task, TaskEnded when it must be stopped."""
        await self._running(machine_id, task_id)
        self._board.heard(task_id, self._clock.monotonic(), progress)
        self._changes.tell()

    async def result(self, machine_id: int, task_id: int, result: TaskResult) -> None:
        """End a task as its machine says. A second, equal word changes nothing."""
        task = await self._own(machine_id, task_id)
        state = TaskState.SUCCEEDED if result.ok else TaskState.FAILED
        if task.state is state:
            return
        if task.state is not TaskState.RUNNING:
            raise TaskEnded(f"task {task_id} is {task.state}")
        if task.kind is TaskKind.CAPTURE and result.ok and task.version == 0:
            result = TaskResult(False, "the agent says it is done, but published no image", result.log)
            state = TaskState.FAILED
        if task.kind is TaskKind.DEPLOY and result.ok:
            wanted = (await self._session_of(task)).manifest_hash
            if result.proof is None or result.proof.manifest_hash != wanted:
                result = TaskResult(False, "the agent's proof is not of this image", result.log, result.proof)
                state = TaskState.FAILED
        await self._outcomes.end(task, state, result)

    async def manifest(self, machine_id: int, task_id: int) -> bytes:
        """The signed manifest of a deploy task."""
        task = await self._running(machine_id, task_id)
        if task.kind is not TaskKind.DEPLOY:
            raise UnknownError(f"task {task_id} has no manifest: it is a {task.kind}")
        return await self._images.signed_manifest(task.image, task.version)

    async def ready(self, machine_id: int, task_id: int, bitmap: bytes) -> None:
        """The machine listens, and lacks what the bitmap says. Raises MessageError for one that does not fit."""
        task = await self._running(machine_id, task_id)
        if task.session_id is None:
            raise UnknownError(f"task {task_id} has no session: it is a {task.kind}")
        manifest = await self._images.manifest(task.image, task.version)
        parse_bitmap(bitmap, len(manifest.chunks))
        self._board.heard(task_id, self._clock.monotonic())
        await self._casts.ready(task.session_id, task.receiver, bitmap)
        text = f"{task.machine} is ready and lacks {count_lacking(bitmap)} of {len(manifest.chunks)} chunks"
        await self._database.run(
            self._sessions.add_event,
            text,
            self._clock.wall(),
            session_id=task.session_id,
            machine_id=machine_id,
        )
        self._changes.tell()

    async def has_chunk(self, machine_id: int, task_id: int, chunk: bytes) -> bool:
        await self._capturing(machine_id, task_id)
        return await self._captures.has(task_id, chunk)

    async def put_chunk(self, machine_id: int, task_id: int, chunk: bytes, stored: bytes) -> None:
        await self._capturing(machine_id, task_id)
        self._board.heard(task_id, self._clock.monotonic())
        await self._captures.put(task_id, chunk, stored)

    async def publish(self, machine_id: int, task_id: int, body: bytes) -> None:
        """Publish a capture. A second word for the same task changes nothing."""
        task = await self._capturing(machine_id, task_id)
        if task.version:
            return
        manifest = await self._captures.publish(task_id, task.image, body)
        await self._database.run(self._sessions.set_version, task_id, manifest.version)
        self._board.heard(task_id, self._clock.monotonic())
        self._changes.tell()

    async def _hand_out(self, task: TaskRecord) -> Task:
        self._board.heard(task.id, self._clock.monotonic())
        if task.state is TaskState.PENDING:
            task = await self._database.run(self._sessions.start_task, task.id, self._clock.wall())
            log.info("task taken", task=task.id, machine=task.machine, kind=str(task.kind), image=task.image)
            self._changes.tell()
        if task.kind is TaskKind.CAPTURE:
            return Task(task.id, task.kind, capture=CaptureTask(task.image, task.device, task.after))
        session = await self._session_of(task)
        deploy = DeployTask(
            image=task.image,
            version=task.version,
            manifest_hash=session.manifest_hash,
            target=task.device,
            cast=self._casts.address(session, task.receiver),
            identity=Identity(hostname=task.machine),
            after=task.after,
        )
        return Task(task.id, task.kind, deploy=deploy)

    async def _session_of(self, task: TaskRecord) -> Session:
        if task.session_id is None:
            raise UnknownError(f"task {task.id} has no session: it is a {task.kind}")
        return await self._database.run(self._sessions.session, task.session_id)

    async def _own(self, machine_id: int, task_id: int) -> TaskRecord:
        task = await self._database.run(self._sessions.task, task_id)
        if task.machine_id != machine_id:
            raise UnknownError(f"no task {task_id} of this machine")
        return task

    async def _running(self, machine_id: int, task_id: int) -> TaskRecord:
        task = await self._own(machine_id, task_id)
        if task.state not in OPEN_TASK_STATES:
            raise TaskEnded(f"task {task_id} is {task.state}: stop it")
        if task.state is not TaskState.RUNNING:
            raise ConflictError(f"task {task_id} is {task.state}: ask for it first")
        return task

    async def _capturing(self, machine_id: int, task_id: int) -> TaskRecord:
        task = await self._running(machine_id, task_id)
        if task.kind is not TaskKind.CAPTURE:
            raise UnknownError(f"task {task_id} takes no chunks: it is a {task.kind}")
        return task


def _digest(secret: str) -> str:
    """What is kept of a token: it has 256 random bits, so one fast hash keeps it."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
