"""Tables of states, and when a session begins."""

import itertools
from ipaddress import IPv4Address, IPv4Network

import pytest
from inventories import an_inventory

from imager.wire.messages import After
from netboot.deployment.grouping import (
    MOST_RECEIVERS,
    Attendance,
    CastInterface,
    choose_interface,
    choose_interface_again,
    may_begin,
    plan_tasks,
    share_bitrate,
)
from netboot.deployment.records import Machine
from netboot.deployment.states import (
    OPEN_TASK_STATES,
    SESSION_CHANGES,
    TASK_CHANGES,
    check_session_change,
    check_task_change,
    session_outcome,
)
from netboot.errors import ConflictError, UserError
from netboot.model import SessionState, TaskState

P, R, S, F, C = TaskState.PENDING, TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED


def test_every_state_has_its_row() -> None:
    assert set(TASK_CHANGES) == set(TaskState)
    assert set(SESSION_CHANGES) == set(SessionState)


def test_tasks_change_only_as_the_table_says() -> None:
    allowed = {(P, R), (P, F), (P, C), (R, S), (R, F), (R, C)}
    for old, new in itertools.product(TaskState, repeat=2):
        if (old, new) in allowed:
            check_task_change(1, old, new)
        else:
            with pytest.raises(ConflictError, match=f"task 1 is {old}"):
                check_task_change(1, old, new)


def test_task_that_never_ran_cannot_have_succeeded() -> None:
    with pytest.raises(ConflictError):
        check_task_change(1, P, S)


def test_ended_session_stays_ended() -> None:
    for ended, new in itertools.product((SessionState.DONE, SessionState.FAILED), SessionState):
        with pytest.raises(ConflictError):
            check_session_change(1, ended, new)


@pytest.mark.parametrize(
    ("tasks", "outcome"),
    [
        ([S, S], SessionState.DONE),
        ([S, F], SessionState.DONE),
        ([F, F], SessionState.FAILED),
        ([C, C], SessionState.FAILED),
        ([S, R], None),
        ([F, P], None),
        ([], SessionState.FAILED),
    ],
)
def test_session_ends_with_its_last_task_and_is_done_when_one_machine_is(
    tasks: list[TaskState], outcome: SessionState | None
) -> None:
    assert session_outcome(tasks) == outcome


def test_open_states_are_those_that_can_change() -> None:
    assert {P, R} == OPEN_TASK_STATES


@pytest.mark.parametrize(
    ("attendance", "min_receivers", "begins"),
    [
        (Attendance(3, 0, 0, 0.0), 0, False),
        (Attendance(3, 0, 3, 999.0), 0, False),
        (Attendance(3, 2, 0, 1.0), 0, False),
        (Attendance(3, 3, 0, 0.0), 0, True),
        (Attendance(3, 2, 1, 0.0), 0, True),
        (Attendance(3, 2, 0, 1.0), 2, True),
        (Attendance(3, 1, 0, 1.0), 2, False),
        (Attendance(3, 1, 0, 120.0), 0, True),
        (Attendance(3, 1, 0, 119.9), 0, False),
    ],
)
def test_session_begins_when_all_or_enough_are_here_or_the_first_waited_long_enough(
    attendance: Attendance, min_receivers: int, begins: bool
) -> None:
    assert may_begin(attendance, min_receivers, 120.0) is begins


def machines(count: int) -> list[Machine]:
    inventory = an_inventory()
    return [Machine(number, f"pc-{number}", inventory, (), 0.0, 0.0) for number in range(1, count + 1)]


def test_receivers_are_numbered_from_one() -> None:
    tasks = plan_tasks(machines(3), "golden", 2, "", After.REBOOT)
    assert [(task.machine_id, task.receiver) for task in tasks] == [(1, 1), (2, 2), (3, 3)]


def test_more_machines_than_receiver_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="too many"):
        plan_tasks(machines(1) * (MOST_RECEIVERS + 1), "golden", 1, "", After.REBOOT)


ETH1 = CastInterface("eth1", IPv4Address("10.77.0.1"), IPv4Network("10.77.0.0/24"))
ETH2 = CastInterface("eth2", IPv4Address("10.78.0.1"), IPv4Network("10.78.0.0/24"))


def at(*addresses: str) -> list[Machine]:
    return [
        Machine(number, f"pc-{number}", an_inventory(address=address), (), 0.0, 0.0)
        for number, address in enumerate(addresses, start=1)
    ]


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        (("10.77.0.5", "10.77.0.6"), ETH1),
        (("10.78.0.5",), ETH2),
        (("10.90.0.5", "10.78.0.5"), ETH2),  # one behind a router goes with the others
        (("10.90.0.5",), ETH1),
    ],
)
def test_session_is_sent_where_its_machines_are(addresses: tuple[str, ...], chosen: CastInterface) -> None:
    assert choose_interface(at(*addresses), [ETH1, ETH2]) is chosen


def test_session_of_machines_on_two_interfaces_is_refused_with_their_names() -> None:
    addresses = ["10.78.0.9", *(f"10.77.0.{number}" for number in range(2, 8))]
    with pytest.raises(UserError, match="on eth2: pc-1; on eth1: pc-2, pc-3, pc-4 and 3 more"):
        choose_interface(at(*addresses), [ETH1, ETH2])


@pytest.mark.parametrize(
    ("before", "addresses", "chosen"),
    [
        ("eth2", ("10.77.0.5", "10.77.0.6", "10.78.0.5"), ETH2),  # two moved away from it
        ("eth9", ("10.77.0.5", "10.78.0.5", "10.78.0.6"), ETH2),  # it is served no longer
        ("", ("10.77.0.5", "10.78.0.5", "10.77.0.6"), ETH1),
        ("eth9", ("10.90.0.5",), ETH1),
    ],
)
def test_session_goes_on_where_it_was_sent_or_where_most_of_its_machines_are(
    before: str, addresses: tuple[str, ...], chosen: CastInterface
) -> None:
    assert choose_interface_again(before, at(*addresses), [ETH1, ETH2]) is chosen


def test_casts_share_a_total_fairly_below_their_own_limits() -> None:
    assert share_bitrate(0, {1: 0, 2: 50}) == {1: 0, 2: 50}
    assert share_bitrate(900, {1: 0, 2: 0, 3: 0}) == {1: 300, 2: 300, 3: 300}
    assert share_bitrate(900, {1: 0, 2: 100, 3: 0}) == {1: 400, 2: 100, 3: 400}
    assert share_bitrate(900, {1: 5000}) == {1: 900}
    assert share_bitrate(900, {}) == {}
    many = share_bitrate(1_000_000, dict.fromkeys(range(7), 0))
    assert 999_990 < sum(many.values()) <= 1_000_000
