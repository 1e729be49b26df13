"""The agents' side of the deployment: register, take a task, tell of it, end it."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Protocol

import structlog

from imager.errors import ImagerError
from imager.image.plan import count_lacking, parse_bitmap
from imager.wire.messages import (
    Admission,
    CaptureTask,
    DeployTask,
    Identity,
    Inventory,
    Progress,
    ProgressAnswer,
    Proof,
    Registration,
    Task,
    TaskKind,
    TaskResult,
)
from netboot.bootlog.events import AgentStep
from netboot.deployment.captures import Captures
from netboot.deployment.grouping import CastInterface, why_out_of_reach
from netboot.deployment.images import Images
from netboot.deployment.live import Board, Changes
from netboot.deployment.outcomes import Casts, Clock, Outcomes
from netboot.deployment.records import Session, TaskRecord
from netboot.deployment.states import OPEN_TASK_STATES
from netboot.errors import ConflictError, UnknownError, UserError
from netboot.model import TaskState
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository

LONGEST_WAIT_S = 60.0
"""Of one question for a task."""
AT_WORK_S = 10.0
"""A machine whose progress was heard so lately is where that came from, and nowhere else."""

log = structlog.get_logger()


class Leases(Protocol):
    """Who has which address."""

    def holder(self, address: IPv4Address) -> str | None:
        """The MAC that has a lease of it now."""

    def address_of(self, mac: str) -> IPv4Address | None:
        """What a machine has a lease of now."""


class AgentLog(Protocol):
    """Told what agents do: for the boot log. Must not block."""

    def registered(self, inventory: Inventory, peer: str, machine_id: int, name: str, is_new: bool) -> None: ...

    def registration_refused(self, inventory: Inventory, peer: str, reason: str) -> None: ...

    def agent(self, machine_id: int, step: AgentStep, task: str = "", why: str = "") -> None: ...


class WaysHome(Protocol):
    """How machines without a task get to their disk: see homecoming.py."""

    def hand_over(self, machine_id: int) -> bool:
        """Whether the agent that asks shall restart its machine by BootNext."""

    def forget(self, machine_id: int) -> None:
        """The machine has a task."""


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
        leases: Leases | None = None,
        idle_s: Callable[[], float] = lambda: 900.0,
        boot_log: AgentLog | None = None,
        ways: WaysHome | None = None,
        interfaces: Sequence[CastInterface] = (),
    ) -> None:
        """`leases`: of the DHCP server, None when another one gives the addresses. `idle_s`, asked for each time: a
        machine that waits for so long without a task starts its own disk. `interfaces`: where sessions are sent.
        """
        self._interfaces = interfaces
        self._leases = leases
        self._idle_s = idle_s
        self._idle_since: dict[int, float] = {}
        self._boot_log = boot_log
        self._ways = ways
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

    async def register(self, inventory: Inventory, peer: str) -> Registration:
        """Know the machine, and give it a new token that ends its old one.

        Raises ConflictError when the machine at the address `peer` is not the one that it says to be: its lease is
        another machine's, or the machine it names, be it by another card or by its UUID, has a lease of another
        address or is at work there.
        """
        try:
            await self._check_peer(inventory, peer)
        except ConflictError as error:
            if self._boot_log is not None:
                self._boot_log.registration_refused(inventory, peer, str(error))
            raise
        secret = secrets.token_hex(32)
        machine, new = await self._database.run(self._machines.register, inventory, _digest(secret), self._clock.wall())
        text = f"{machine.name} registered" + (" for the first time" if new else "")
        await self._database.run(self._sessions.add_event, text, self._clock.wall(), machine_id=machine.id)
        log.info("machine registered", machine=machine.name, mac=inventory.boot_mac, new=new, boot_s=inventory.boot_s)
        if self._boot_log is not None:
            self._boot_log.registered(inventory, peer, machine.id, machine.name, new)
        task = await self._database.run(self._sessions.open_task, machine.id)
        if task is not None and task.state is TaskState.RUNNING:
            self._board.heard(task.id, self._clock.monotonic())
        self._idle_since.pop(machine.id, None)
        self._changes.tell()
        return Registration(machine.id, machine.name, f"{machine.id}.{secret}")

    async def _check_peer(self, inventory: Inventory, peer: str) -> None:
        if self._leases is not None:
            holder = self._leases.holder(IPv4Address(peer))
            if holder not in (None, inventory.boot_mac):
                log.warning("registration refused", peer=peer, mac=inventory.boot_mac, lease=holder)
                raise ConflictError(f"{peer} is the address of {holder}, not of {inventory.boot_mac}")
            leased = self._leases.address_of(inventory.boot_mac)
            if leased not in (None, IPv4Address(peer)):
                log.warning("registration refused", peer=peer, mac=inventory.boot_mac, leased=str(leased))
                raise ConflictError(f"{inventory.boot_mac} has the address {leased}, and cannot register from {peer}")
        known = await self._database.run(self._machines.match, inventory)
        if known is not None:
            await self._check_cards(known, inventory, peer)
        task = None if known is None else await self._database.run(self._sessions.open_task, known)
        live = None if task is None else self._board.get(task.id)
        if task is None or live is None or task.state is not TaskState.RUNNING or live.peer in ("", peer):
            return
        if self._clock.monotonic() - live.heard_s < AT_WORK_S:
            log.warning("registration refused", peer=peer, machine=task.machine, at_work=live.peer)
            raise ConflictError(f"{task.machine} is at work at {live.peer}, and cannot register from {peer}")

    async def _check_cards(self, known: int, inventory: Inventory, peer: str) -> None:
        """Whoever names a machine by a card that it did not boot from, or by its UUID, is not there beside it."""
        macs = await self._database.run(self._machines.macs, known)
        if self._leases is None or inventory.boot_mac in macs:
            return
        for mac in macs:
            leased = self._leases.address_of(mac)
            if leased not in (None, IPv4Address(peer)):
                log.warning("registration refused", peer=peer, mac=inventory.boot_mac, named=mac, leased=str(leased))
                raise ConflictError(
                    f"{inventory.boot_mac} says that it is the machine of {mac}, which has the address {leased}: "
                    "if its card was replaced, boot it again when that lease has ended (roomcast lease list)"
                )

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
                    self._idle_since.pop(machine_id, None)
                    if self._ways is not None:
                        self._ways.forget(machine_id)
                    if self._is_being_opened(task):
                        if not await self._wait_for_call(machine_id, event, deadline):
                            return Task(0, TaskKind.WAIT)
                        continue
                    if why := await self._why_out_of_reach(task):
                        self._tell(machine_id, AgentStep.FAILED, task, why)
                        await self._outcomes.fail(task, why)
                        continue
                    self._tell(machine_id, AgentStep.TASK, task)
                    return await self._hand_out(task)
                if self._ways is not None and self._ways.hand_over(machine_id):
                    self._tell(machine_id, AgentStep.LOCAL)
                    return Task(0, TaskKind.BOOT_LOCAL, boot_next=True)
                if await self._idle_enough(machine_id):
                    self._tell(machine_id, AgentStep.LOCAL)
                    return Task(0, TaskKind.BOOT_LOCAL)
                self._tell(machine_id, AgentStep.WAITS)
                if not await self._wait_for_call(machine_id, event, deadline):
                    return Task(0, TaskKind.WAIT)
        finally:
            self._changes.drop_event(machine_id, event)

    async def _wait_for_call(self, machine_id: int, event: asyncio.Event, deadline: float) -> bool:
        """Wait until there may be something new for the machine. False: it shall be told that there is nothing yet."""
        left = deadline - self._clock.monotonic()
        if left <= 0 or self._changes.stopping:
            return False
        try:
            async with asyncio.timeout(left):
                await event.wait()
        except TimeoutError:
            return True
        if self._changes.is_replaced(machine_id, event):
            return False
        event.clear()
        return True

    def _is_being_opened(self, task: TaskRecord) -> bool:
        """Its session has no sender yet that could admit the machine, which is called when it has."""
        return task.session_id is not None and self._casts.sender(task.session_id) is None

    async def _idle_enough(self, machine_id: int) -> bool:
        """Whether it has waited so long that it shall start its disk, which must be whole for that."""
        since = self._idle_since.setdefault(machine_id, self._clock.monotonic())
        if self._clock.monotonic() - since < self._idle_s():
            return False
        if await self._database.run(self._sessions.failed_deploy, machine_id) is not None:
            return False
        del self._idle_since[machine_id]
        log.info("idle machine starts its disk", machine=machine_id)
        return True

    async def progress(self, machine_id: int, task_id: int, progress: Progress, peer: str = "") -> ProgressAnswer:
        """Raises UnknownError for another's task, TaskEnded when it must be stopped."""
        task = await self._running(machine_id, task_id)
        self._board.heard(task_id, self._clock.monotonic(), progress, peer)
        self._changes.tell()
        if not progress.cast or task.session_id is None:
            return ProgressAnswer()
        return ProgressAnswer(again=not self._casts.listens(task.session_id, task.receiver, progress.cast))

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
            doubt = await self._doubt(task, result.proof)
            if doubt:
                result = TaskResult(False, doubt, result.log, result.proof)
                state = TaskState.FAILED
        await self._outcomes.end(task, state, result)
        step = AgentStep.SUCCEEDED if state is TaskState.SUCCEEDED else AgentStep.FAILED
        self._tell(machine_id, step, task, result.error)

    def _tell(self, machine_id: int, step: AgentStep, task: TaskRecord | None = None, why: str = "") -> None:
        """A line of the machine's boot log."""
        if self._boot_log is not None:
            version = f" version {task.version}" if task and task.version else ""
            self._boot_log.agent(machine_id, step, f"{task.kind} {task.image}{version}" if task else "", why)

    async def _doubt(self, task: TaskRecord, proof: Proof | None) -> str:
        """Why this proof does not prove that the task is done; empty when it does."""
        if proof is None or proof.manifest_hash != (await self._session_of(task)).manifest_hash:
            return "the agent's proof is not of this image"
        try:
            chunks = len((await self._images.manifest(task.image, task.version)).chunks)
        except (UserError, ImagerError) as error:
            return f"the agent's proof cannot be compared with the image: {error}"
        if proof.chunks_verified != chunks:
            return f"the agent proved {proof.chunks_verified} of the image's {chunks} chunks"
        return ""

    async def check_takes_result(self, machine_id: int, task_id: int) -> None:
        """Raises UnknownError for another's task and TaskEnded when no result of it is taken: ask before reading it."""
        task = await self._own(machine_id, task_id)
        if task.state in (TaskState.PENDING, TaskState.CANCELLED):
            raise TaskEnded(f"task {task_id} is {task.state}")

    async def check_running(self, machine_id: int, task_id: int) -> None:
        """Raises as `progress` does: ask before reading a body for the task."""
        await self._running(machine_id, task_id)

    async def check_capturing(self, machine_id: int, task_id: int) -> None:
        """As `check_running`, and UnknownError for a task that is no capture."""
        await self._capturing(machine_id, task_id)

    async def manifest(self, machine_id: int, task_id: int) -> bytes:
        """The signed manifest of a deploy task."""
        task = await self._running(machine_id, task_id)
        if task.kind is not TaskKind.DEPLOY:
            raise UnknownError(f"task {task_id} has no manifest: it is a {task.kind}")
        self._board.heard(task_id, self._clock.monotonic())
        return await self._images.signed_manifest(task.image, task.version)

    async def ready(self, machine_id: int, task_id: int, bitmap: bytes, unheard: bool = False) -> Admission:
        """The machine lacks what the bitmap says; `unheard`: no cast reaches it. Raises MessageError for a bitmap that
        does not fit.
        """
        task = await self._running(machine_id, task_id)
        if task.session_id is None:
            raise UnknownError(f"task {task_id} has no session: it is a {task.kind}")
        manifest = await self._images.manifest(task.image, task.version)
        parse_bitmap(bitmap, len(manifest.chunks))
        self._board.heard(task_id, self._clock.monotonic())
        if unheard:
            self._casts.serve_by_unicast(task.session_id, task.receiver, "none of the cast's packets reach it")
        admission = await self._casts.ready(task.session_id, task.receiver, bitmap)
        text = f"{task.machine} is ready and lacks {count_lacking(bitmap)} of {len(manifest.chunks)} chunks"
        if admission.unicast:
            text += f", which it fetches by unicast: {admission.reason}"
        await self._database.run(
            self._sessions.add_event,
            text,
            self._clock.wall(),
            session_id=task.session_id,
            machine_id=machine_id,
        )
        self._changes.tell()
        return admission

    async def chunk(self, machine_id: int, task_id: int, chunk: bytes) -> bytes:
        """The stored bytes of a chunk of the image that is deployed; waits its turn when sending is limited.

        Raises UnknownError for any other chunk.
        """
        task = await self._running(machine_id, task_id)
        if task.session_id is None:
            raise UnknownError(f"task {task_id} gives no chunks: it is a {task.kind}")
        self._board.heard(task_id, self._clock.monotonic())
        stored = await self._images.stored_chunk(task.image, task.version, chunk)
        await self._casts.pace_unicast(task.session_id, len(stored))
        return stored

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
        self._board.heard(task_id, self._clock.monotonic())
        manifest = await self._captures.publish(task_id, task.image, body)
        await self._database.run(self._sessions.set_version, task_id, manifest.version)
        self._board.heard(task_id, self._clock.monotonic())
        self._changes.tell()

    async def _hand_out(self, task: TaskRecord) -> Task:
        self._board.handed_out(task.id, self._clock.monotonic())
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
            identity=Identity(hostname=task.machine),
            after=task.after,
        )
        return Task(task.id, task.kind, deploy=deploy)

    async def _why_out_of_reach(self, task: TaskRecord) -> str:
        """Why the cast cannot come to the machine, which may have moved since its session was opened."""
        sender = None if task.session_id is None else self._casts.sender(task.session_id)
        if sender is None:
            return ""
        machine = await self._database.run(self._machines.get, task.machine_id)
        return why_out_of_reach(machine, IPv4Address(sender), self._interfaces)

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
