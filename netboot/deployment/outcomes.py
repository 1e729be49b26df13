"""How tasks and sessions end: the one place that does it, whoever asks (agent, administrator, watch, sender)."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from imager.image.manifest import Manifest
from imager.wire.messages import Admission, TaskResult
from netboot.deployment.live import Board, Changes
from netboot.deployment.records import Session, TaskRecord
from netboot.deployment.states import OPEN_TASK_STATES, session_outcome
from netboot.errors import ConflictError
from netboot.model import SessionState, TaskState
from netboot.persistence.database import Database
from netboot.persistence.sessions import SessionRepository

WATCH_INTERVAL_S = 1.0
PRUNE_INTERVAL_S = 600.0
EVENTS_KEPT = 100_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of the appliance."""

    wall: Callable[[], float]
    """Unix seconds, for what is kept."""
    monotonic: Callable[[], float]
    """Seconds, for what waits."""


class Casts(Protocol):
    """The running casts, as the deployment needs them."""

    async def open(self, session: Session, manifest: Manifest, receivers: list[int], sender: str) -> None:
        """Start the sender of a session, at the address `sender` of ours; it waits for its receivers."""

    def sender(self, session_id: int) -> str | None:
        """The address of ours that a session is sent from; None when it is not open."""

    async def ready(self, session_id: int, receiver: int, wanted: bytes) -> Admission:
        """A receiver lacks the chunks whose bit is set. Raises ConflictError when the session is not open."""

    def serve_by_unicast(self, session_id: int, receiver: int, reason: str) -> None:
        """No cast reaches this receiver: from when it is ready the next time it fetches its chunks."""

    def listens(self, session_id: int, receiver: int, number: int) -> bool:
        """Whether the cast of this number goes on, and waits for this receiver."""

    async def pace_unicast(self, session_id: int, length_bytes: int) -> None:
        """Wait until so much may be sent to one machine."""

    async def leave(self, session_id: int, receiver: int, reason: str) -> None:
        """A receiver is done or gone; nobody waits for it."""

    async def close(self, session_id: int) -> dict[str, float]:
        """End the sender; what it counted."""


class CaptureEnds(Protocol):
    """The uploads of captures, as their end needs them."""

    def ending(self, task_id: int) -> AbstractAsyncContextManager[None]:
        """Around the end of a task: what an unfinished capture uploaded is thrown away."""


class Outcomes:
    """Ends tasks, and sessions with their last task."""

    def __init__(
        self,
        database: Database,
        sessions: SessionRepository,
        board: Board,
        changes: Changes,
        casts: Casts,
        captures: CaptureEnds,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._board = board
        self._changes = changes
        self._casts = casts
        self._captures = captures
        self._settling = asyncio.Lock()
        self._clock = clock

    async def end(self, task: TaskRecord, state: TaskState, result: TaskResult) -> TaskRecord:
        """End one task. Raises ConflictError when it has ended already."""
        async with self._captures.ending(task.id):
            ended = await self._database.run(self._sessions.end_task, task.id, state, result, self._clock.wall())
        self._board.forget(task.id)
        log.info("task ended", task=task.id, machine=task.machine, state=str(state), error=result.error)
        if task.session_id is not None:
            await self._casts.leave(task.session_id, task.receiver, result.error or str(state))
            await self.settle(task.session_id)
        self._changes.call(task.machine_id)
        self._changes.tell()
        return ended

    async def fail(self, task: TaskRecord, reason: str) -> None:
        """End a task as failed, unless it has ended meanwhile."""
        try:
            await self.end(task, TaskState.FAILED, TaskResult(False, reason, ()))
        except ConflictError:
            log.info("task had ended before", task=task.id, machine=task.machine)

    async def fail_session(self, session_id: int, reason: str) -> None:
        """End every open task of a session as failed: its sender is gone."""
        for task in await self._database.run(self._sessions.tasks, session_id=session_id, limit=100_000):
            if task.state in OPEN_TASK_STATES:
                await self.fail(task, reason)
        await self.settle(session_id)

    async def watch(self, limits: Callable[[], tuple[float, float]]) -> None:
        """Fail, for ever, tasks whose machine is silent, and those that no machine took. The others go on.

        `limits`: the seconds of `watch_once`, asked for each time.
        """
        pruned_s = -PRUNE_INTERVAL_S
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            try:
                await self.watch_once(*limits())
                if self._clock.monotonic() - pruned_s > PRUNE_INTERVAL_S:
                    pruned_s = self._clock.monotonic()
                    await self._database.run(self._sessions.prune_events, EVENTS_KEPT)
            except Exception:
                log.exception("the watch over silent machines failed; it goes on")

    async def watch_once(self, silence_s: float, join_within_s: float) -> None:
        """One look at all open tasks."""
        silent = self._board.silent(self._clock.monotonic(), silence_s)
        for task in await self._database.run(self._sessions.tasks, open_only=True, limit=100_000):
            if task.state is TaskState.RUNNING:
                if task.id in silent:
                    await self.fail(task, f"machine {task.machine} was silent for {silent[task.id]:.0f} s")
                    continue
                live = self._board.get(task.id)
                if live is None:
                    # Left over from before a restart of the appliance: it gets its time from now on.
                    self._board.heard(task.id, self._clock.monotonic())
                if live is None or live.begun:
                    continue
            if self._clock.wall() - task.created_s > join_within_s:
                await self.fail(task, f"machine {task.machine} did not take its task within {join_within_s:.0f} s")

    async def settle(self, session_id: int) -> None:
        """End the session when none of its tasks is open."""
        tasks = await self._database.run(self._sessions.tasks, session_id=session_id, limit=100_000)
        outcome = session_outcome([task.state for task in tasks])
        if outcome is None:
            return
        # One at a time: of two last tasks that end together the second finds no cast, and must not note that nothing
        # was counted while the first waits for the sender's word.
        async with self._settling:
            statistics = await self._casts.close(session_id)
            self._board.forget_session(session_id)
            try:
                await self._database.run(
                    self._sessions.change_session, session_id, outcome, self._clock.wall(), statistics
                )
            except ConflictError:
                return
        log.info("session ended", session=session_id, state=str(outcome), failed=outcome is SessionState.FAILED)
