"""Sessions, tasks and events in the database.

Blocking: call through `Database.run`. Every change of state goes by the tables of deployment/states.py.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import and_, delete, func, or_, select
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.orm import joinedload, lazyload, load_only

from imager.wire.messages import After, Proof, TaskKind, TaskResult
from imager.wire.session import SlowPolicy
from netboot.deployment.records import Event, NewSession, NewTask, Session, TaskRecord
from netboot.deployment.states import (
    OPEN_SESSION_STATES,
    OPEN_TASK_STATES,
    check_session_change,
    check_task_change,
)
from netboot.errors import ConflictError, UnknownError
from netboot.model import SessionState, TaskState
from netboot.persistence.database import Database
from netboot.persistence.documents import from_document, to_document
from netboot.persistence.schema import EventRow, MachineRow, SessionRow, TaskRow

_NAME_ONLY = joinedload(TaskRow.machine).options(
    load_only(MachineRow.name), lazyload(MachineRow.nics), lazyload(MachineRow.groups)
)
"""Of a task's machine no more than its name, for lists of many tasks."""
_OPEN_TASKS = [state.value for state in OPEN_TASK_STATES]
_OPEN_SESSIONS = [state.value for state in OPEN_SESSION_STATES]


class SessionRepository:
    """Keeps what was asked, what happens and what happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_session(
        self, new: NewSession, tasks: Sequence[NewTask], now_s: float
    ) -> tuple[Session, list[TaskRecord]]:
        """A session with its tasks, all or nothing. Raises ConflictError when a machine has an open task."""
        with self._database.transaction() as transaction:
            row = SessionRow(
                number=new.number,
                image=new.image,
                version=new.version,
                manifest_hash=new.manifest_hash,
                group=new.group,
                data_port=new.data_port,
                min_receivers=new.min_receivers,
                max_wait_s=new.max_wait_s,
                max_bitrate_bps=new.max_bitrate_bps,
                slow=new.slow,
                floor_bps=new.floor_bps,
                unicast=new.unicast,
                interface=new.interface,
                state=SessionState.WAITING,
                created_s=now_s,
                ended_s=None,
                statistics={},
            )
            transaction.add(row)
            transaction.flush()
            records = _add_tasks(transaction, tasks, row.id, now_s)
            return _session(row), records

    def create_task(self, new: NewTask, now_s: float) -> TaskRecord:
        """A task without a session. Raises ConflictError when the machine has an open task."""
        with self._database.transaction() as transaction:
            return _add_tasks(transaction, [new], None, now_s)[0]

    def session(self, session_id: int) -> Session:
        with self._database.reading() as transaction:
            return _session(_get_session(transaction, session_id))

    def sessions(self, limit: int = 100) -> list[Session]:
        """The latest sessions, the newest first."""
        with self._database.reading() as transaction:
            rows = transaction.scalars(select(SessionRow).order_by(SessionRow.id.desc()).limit(limit))
            return [_session(row) for row in rows]

    def open_sessions(self) -> list[Session]:
        with self._database.reading() as transaction:
            rows = transaction.scalars(select(SessionRow).where(SessionRow.state.in_(_OPEN_SESSIONS)))
            return [_session(row) for row in rows]

    def task(self, task_id: int) -> TaskRecord:
        with self._database.reading() as transaction:
            return _task(_get_task(transaction, task_id))

    def tasks(self, *, session_id: int | None = None, open_only: bool = False, limit: int = 1000) -> list[TaskRecord]:
        """Tasks by id: all, of one session, or the open ones."""
        query = select(TaskRow).order_by(TaskRow.id.desc()).limit(limit).options(_NAME_ONLY)
        if session_id is not None:
            query = query.where(TaskRow.session_id == session_id)
        if open_only:
            query = query.where(TaskRow.state.in_(_OPEN_TASKS))
        with self._database.reading() as transaction:
            return sorted((_task(row) for row in transaction.scalars(query)), key=lambda task: task.id)

    def tasks_of(self, session_ids: Sequence[int]) -> dict[int, list[TaskRecord]]:
        """The tasks of some sessions by id, by session id; one without any has no entry."""
        query = select(TaskRow).where(TaskRow.session_id.in_(session_ids)).order_by(TaskRow.id).options(_NAME_ONLY)
        found: dict[int, list[TaskRecord]] = {}
        with self._database.reading() as transaction:
            for row in transaction.scalars(query):
                if row.session_id is not None:
                    found.setdefault(row.session_id, []).append(_task(row))
        return found

    def latest_tasks(self) -> dict[int, TaskRecord]:
        """The last task of each machine, by machine id."""
        newest = select(func.max(TaskRow.id)).group_by(TaskRow.machine_id)
        with self._database.reading() as transaction:
            rows = transaction.scalars(select(TaskRow).where(TaskRow.id.in_(newest)).options(_NAME_ONLY))
            return {row.machine_id: _task(row) for row in rows}

    def open_task(self, machine_id: int) -> TaskRecord | None:
        """The task that this machine does or shall do, None when it has none."""
        query = select(TaskRow).where(TaskRow.machine_id == machine_id, TaskRow.state.in_(_OPEN_TASKS))
        with self._database.reading() as transaction:
            row = transaction.scalars(query.order_by(TaskRow.id)).first()
            return _task(row) if row else None

    def failed_deploy(self, machine_id: int) -> TaskRecord | None:
        """The deployment that failed on this machine after it began, when nothing succeeded or was cancelled since."""
        telling = or_(
            TaskRow.state.in_([TaskState.SUCCEEDED, TaskState.CANCELLED]),
            and_(TaskRow.kind == TaskKind.DEPLOY, TaskRow.state == TaskState.FAILED, TaskRow.started_s.is_not(None)),
        )
        query = select(TaskRow).where(TaskRow.machine_id == machine_id, telling).order_by(TaskRow.id.desc())
        with self._database.reading() as transaction:
            row = transaction.scalars(query.limit(1)).first()
            return _task(row) if row is not None and row.state == TaskState.FAILED else None

    def start_task(self, task_id: int, now_s: float) -> TaskRecord:
        with self._database.transaction() as transaction:
            row = _get_task(transaction, task_id)
            check_task_change(row.id, TaskState(row.state), TaskState.RUNNING)
            row.state = TaskState.RUNNING
            row.started_s = now_s
            _note(transaction, row, f"{row.machine.name} began its {row.kind}", now_s)
            return _task(row)

    def end_task(self, task_id: int, state: TaskState, result: TaskResult, now_s: float) -> TaskRecord:
        """Raises ConflictError when the task has ended already or never began."""
        with self._database.transaction() as transaction:
            row = _get_task(transaction, task_id)
            check_task_change(row.id, TaskState(row.state), state)
            row.state = state
            row.ended_s = now_s
            row.error = result.error
            row.log = list(result.log)
            row.proof = to_document(result.proof) if result.proof else None
            text = f"{row.machine.name}: {row.kind} {state}" + (f": {result.error}" if result.error else "")
            _note(transaction, row, text, now_s)
            return _task(row)

    def set_version(self, task_id: int, version: int) -> None:
        """The version that a capture was published as."""
        with self._database.transaction() as transaction:
            _get_task(transaction, task_id).version = version

    def change_session(
        self, session_id: int, state: SessionState, now_s: float, statistics: Mapping[str, float] | None = None
    ) -> Session:
        with self._database.transaction() as transaction:
            row = _get_session(transaction, session_id)
            check_session_change(row.id, SessionState(row.state), state)
            row.state = state
            if state not in OPEN_SESSION_STATES:
                row.ended_s = now_s
            if statistics is not None:
                row.statistics = dict(statistics)
            transaction.add(EventRow(at_s=now_s, session_id=row.id, text=f"session {row.id} is {state}"))
            return _session(row)

    def add_event(
        self, text: str, now_s: float, *, session_id: int | None = None, machine_id: int | None = None
    ) -> None:
        with self._database.transaction() as transaction:
            transaction.add(EventRow(at_s=now_s, session_id=session_id, machine_id=machine_id, text=text))

    def prune_events(self, keep: int) -> None:
        """Forget all but the last `keep` events."""
        with self._database.transaction() as transaction:
            newest = transaction.scalar(select(func.max(EventRow.id))) or 0
            transaction.execute(delete(EventRow).where(EventRow.id <= newest - keep))

    def events(self, *, session_id: int | None = None, limit: int = 50) -> list[Event]:
        """The last events, the oldest first."""
        query = select(EventRow).order_by(EventRow.id.desc()).limit(limit)
        if session_id is not None:
            query = query.where(EventRow.session_id == session_id)
        with self._database.reading() as transaction:
            rows = list(transaction.scalars(query))
        return [Event(r.id, r.at_s, r.session_id, r.machine_id, r.task_id, r.text) for r in reversed(rows)]


def _add_tasks(
    transaction: Transaction, tasks: Sequence[NewTask], session_id: int | None, now_s: float
) -> list[TaskRecord]:
    machines = [task.machine_id for task in tasks]
    busy = transaction.scalars(
        select(TaskRow).where(TaskRow.machine_id.in_(machines), TaskRow.state.in_(_OPEN_TASKS))
    ).all()
    if busy:
        names = ", ".join(f"{row.machine.name} (task {row.id}, {row.kind} {row.image})" for row in busy)
        raise ConflictError(f"busy: {names}; wait for it, or end it with `roomcast task cancel`")
    rows = []
    for task in tasks:
        machine = transaction.get(MachineRow, task.machine_id)
        if machine is None:
            raise UnknownError(f"no machine {task.machine_id}")
        row = TaskRow(
            machine=machine,
            session_id=session_id,
            kind=task.kind,
            image=task.image,
            version=task.version,
            device=task.device,
            receiver=task.receiver,
            after=task.after,
            state=TaskState.PENDING,
            created_s=now_s,
            started_s=None,
            ended_s=None,
            error="",
            log=[],
            proof=None,
        )
        transaction.add(row)
        rows.append(row)
    transaction.flush()
    for row in rows:
        _note(transaction, row, f"{row.machine.name} shall {row.kind} {row.image}", now_s)
    return [_task(row) for row in rows]


def _note(transaction: Transaction, row: TaskRow, text: str, now_s: float) -> None:
    transaction.add(
        EventRow(at_s=now_s, session_id=row.session_id, machine_id=row.machine_id, task_id=row.id, text=text)
    )


def _get_session(transaction: Transaction, session_id: int) -> SessionRow:
    row = transaction.get(SessionRow, session_id)
    if row is None:
        raise UnknownError(f"no session {session_id}: see `roomcast session list`")
    return row


def _get_task(transaction: Transaction, task_id: int) -> TaskRow:
    row = transaction.get(TaskRow, task_id)
    if row is None:
        raise UnknownError(f"no task {task_id}: see `roomcast task list`")
    return row


def _session(row: SessionRow) -> Session:
    return Session(
        id=row.id,
        number=row.number,
        image=row.image,
        version=row.version,
        manifest_hash=row.manifest_hash,
        group=row.group,
        data_port=row.data_port,
        min_receivers=row.min_receivers,
        max_wait_s=row.max_wait_s,
        max_bitrate_bps=row.max_bitrate_bps,
        slow=SlowPolicy(row.slow),
        floor_bps=row.floor_bps,
        unicast=row.unicast,
        interface=row.interface,
        state=SessionState(row.state),
        created_s=row.created_s,
        ended_s=row.ended_s,
        statistics=dict(row.statistics),
    )


def _task(row: TaskRow) -> TaskRecord:
    return TaskRecord(
        id=row.id,
        machine_id=row.machine_id,
        machine=row.machine.name,
        session_id=row.session_id,
        kind=TaskKind(row.kind),
        image=row.image,
        version=row.version,
        device=row.device,
        receiver=row.receiver,
        after=After(row.after),
        state=TaskState(row.state),
        created_s=row.created_s,
        started_s=row.started_s,
        ended_s=row.ended_s,
        error=row.error,
        log=tuple(row.log),
        proof=from_document(Proof, row.proof) if row.proof else None,
    )
