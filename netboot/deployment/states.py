"""Which changes of state tasks and sessions may make: tables. Pure."""

from collections.abc import Mapping

from netboot.errors import ConflictError
from netboot.model import SessionState, TaskState

TASK_CHANGES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.RUNNING, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.RUNNING: frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}

SESSION_CHANGES: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.WAITING: frozenset({SessionState.SENDING, SessionState.DONE, SessionState.FAILED}),
    SessionState.SENDING: frozenset({SessionState.DONE, SessionState.FAILED}),
    SessionState.DONE: frozenset(),
    SessionState.FAILED: frozenset(),
}

OPEN_TASK_STATES = frozenset(state for state, changes in TASK_CHANGES.items() if changes)
OPEN_SESSION_STATES = frozenset(state for state, changes in SESSION_CHANGES.items() if changes)


def check_task_change(task: int, old: TaskState, new: TaskState) -> None:
    """Raises ConflictError when the table does not allow the change."""
    if new not in TASK_CHANGES[old]:
        raise ConflictError(f"task {task} is {old}: it cannot become {new}")


def check_session_change(session: int, old: SessionState, new: SessionState) -> None:
    """Raises ConflictError when the table does not allow the change."""
    if new not in SESSION_CHANGES[old]:
        raise ConflictError(f"session {session} is {old}: it cannot become {new}")


def session_outcome(tasks: list[TaskState]) -> SessionState | None:
    """What a session has become when its tasks are in these states; None while one of them is open."""
    if any(state in OPEN_TASK_STATES for state in tasks):
        return None
    return SessionState.DONE if TaskState.SUCCEEDED in tasks else SessionState.FAILED
