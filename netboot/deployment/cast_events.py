"""What the casts tell becomes states, events and counters of the deployment."""

from collections.abc import Sequence

import structlog

from imager.multicast.events import RateReason
from netboot.deployment.live import Board, Changes, Pace
from netboot.deployment.outcomes import Clock, Outcomes
from netboot.deployment.records import TaskRecord
from netboot.deployment.states import OPEN_TASK_STATES
from netboot.errors import ConflictError
from netboot.model import SessionState
from netboot.persistence.database import Database
from netboot.persistence.sessions import SessionRepository

log = structlog.get_logger()


class CastEvents:
    """The CastListener of the appliance."""

    def __init__(
        self,
        database: Database,
        sessions: SessionRepository,
        board: Board,
        changes: Changes,
        outcomes: Outcomes,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._board = board
        self._changes = changes
        self._outcomes = outcomes
        self._clock = clock
        self._tasks: dict[tuple[int, int], TaskRecord] = {}

    async def began(self, session_id: int) -> None:
        try:
            await self._database.run(
                self._sessions.change_session, session_id, SessionState.SENDING, self._clock.wall()
            )
        except ConflictError as error:
            # A session that was resumed after a restart is sending already.
            log.debug("session had begun", session=session_id, reason=str(error))
        self._changes.tell()

    async def told(self, session_id: int, receiver: int, text: str) -> None:
        task = await self._task(session_id, receiver)
        if task is None:
            return
        await self._database.run(
            self._sessions.add_event,
            f"{task.machine} {text}",
            self._clock.wall(),
            session_id=session_id,
            machine_id=task.machine_id,
        )
        log.info("receiver", session=session_id, machine=task.machine, told=text)
        self._changes.tell()

    async def counted(self, session_id: int, receiver: int, lost_packets: int) -> None:
        task = await self._task(session_id, receiver)
        if task is not None:
            self._board.lost(task.id, lost_packets)
            self._changes.tell()

    async def paced(self, session_id: int, sent_bps: float, reason: RateReason) -> None:
        task = None if reason.receiver is None else await self._task(session_id, reason.receiver)
        self._board.paced(session_id, Pace(sent_bps, reason.words(f"machine {task.machine}" if task else "")))
        self._changes.tell()

    async def broke(self, session_id: int, receivers: Sequence[int], reason: str) -> None:
        log.error("cast broke off", session=session_id, reason=reason, receivers=len(receivers))
        for task in await self._database.run(self._sessions.tasks, session_id=session_id, limit=100_000):
            if task.receiver in receivers and task.state in OPEN_TASK_STATES:
                await self._outcomes.fail(task, reason)

    async def _task(self, session_id: int, receiver: int) -> TaskRecord | None:
        """The task of a receiver. Its id, machine and number never change, so it is asked for once."""
        if (session_id, receiver) not in self._tasks:
            self._tasks = {key: task for key, task in self._tasks.items() if self._board.get(task.id)}
            for task in await self._database.run(self._sessions.tasks, session_id=session_id, limit=100_000):
                self._tasks[session_id, task.receiver] = task
        return self._tasks.get((session_id, receiver))
