"""How machines become receivers of a session, and when it begins. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from imager.wire.messages import After, TaskKind
from netboot.deployment.records import Machine, NewTask
from netboot.errors import UserError

MOST_RECEIVERS = 65535
"""A receiver's number has 16 bits and is not 0."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Who of a session's receivers is here."""

    expected: int
    ready: int
    gone: int
    """Ended without being ready: cancelled or failed."""
    since_first_ready_s: float


def may_begin(attendance: Attendance, min_receivers: int, max_wait_s: float) -> bool:
    """Whether the first pass starts now; who comes later joins the running session.

    Everyone is ready, or as many as were asked for (`min_receivers`, 0: all), or the first of them waited long enough.
    """
    if attendance.ready == 0:
        return False
    if attendance.ready + attendance.gone >= attendance.expected:
        return True
    if min_receivers and attendance.ready >= min_receivers:
        return True
    return attendance.since_first_ready_s >= max_wait_s


def plan_tasks(machines: Sequence[Machine], image: str, version: int, device: str, after: After) -> list[NewTask]:
    """One deploy task a machine, its receiver number counted from 1. Raises UserError for too many machines."""
    if len(machines) > MOST_RECEIVERS:
        raise UserError(f"{len(machines)} machines are too many for one session: the most is {MOST_RECEIVERS}")
    return [
        NewTask(machine.id, TaskKind.DEPLOY, image, after, version, device, receiver)
        for receiver, machine in enumerate(machines, start=1)
    ]
