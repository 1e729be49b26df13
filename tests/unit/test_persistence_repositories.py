"""Repositories on a real SQLite file."""

import sqlite3
from pathlib import Path

import pytest
from inventories import an_inventory

from imager.wire.messages import After, FirmwareKind, Nic, TaskKind, TaskResult
from imager.wire.session import SlowPolicy
from netboot.deployment.records import NewSession, NewTask
from netboot.errors import ConflictError, ServiceError, UnknownError, UserError
from netboot.model import SessionState, TaskState
from netboot.persistence.database import Database, open_database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository

MAC_1, MAC_2 = "52:54:00:00:00:01", "52:54:00:00:00:02"
UUID = "4c4c4544-0039-3510-8052-b2c04f4e5131"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(tmp_path / "roomcast.db")


@pytest.fixture
def machines(database: Database) -> MachineRepository:
    return MachineRepository(database)


@pytest.fixture
def sessions(database: Database) -> SessionRepository:
    return SessionRepository(database)


def a_session(**changes: object) -> NewSession:
    values: dict[str, object] = {
        "number": 7,
        "image": "golden",
        "version": 1,
        "manifest_hash": "0" * 64,
        "group": "239.77.1.7",
        "data_port": 7407,
        "min_receivers": 0,
        "max_wait_s": 120.0,
        "max_bitrate_bps": 0,
        "slow": SlowPolicy.FAIL,
        "floor_bps": 5_000_000,
        "unicast": True,
        "interface": "eth1",
    }
    return NewSession(**{**values, **changes})  # type: ignore[arg-type]


def a_task(machine_id: int, receiver: int = 1) -> NewTask:
    return NewTask(machine_id, TaskKind.DEPLOY, "golden", After.REBOOT, 1, "", receiver)


def test_every_commit_is_on_the_disk(database: Database, tmp_path: Path) -> None:
    with database.transaction() as session:
        assert session.connection().exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert (tmp_path / "roomcast.db").stat().st_mode & 0o777 == 0o600


def test_database_of_a_newer_roomcast_is_left_alone(database: Database, tmp_path: Path) -> None:
    database.close()
    with sqlite3.connect(tmp_path / "roomcast.db") as raw:
        raw.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(ServiceError, match="newer"):
        open_database(tmp_path / "roomcast.db")


def test_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "roomcast.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(ServiceError, match=r"roomcast\.db"):
        open_database(tmp_path / "roomcast.db")


def test_reader_does_not_wait_for_a_writer(database: Database, machines: MachineRepository) -> None:
    machines.register(an_inventory(MAC_1), "d", 1.0)
    with database.transaction() as session:
        session.connection().exec_driver_sql("UPDATE machine SET name = 'other'")
        assert [machine.name for machine in machines.all()] == ["pc-000001"]


def test_machine_is_known_by_any_of_its_macs(machines: MachineRepository) -> None:
    two = (Nic("eth0", MAC_1, "e1000", 0), Nic("eth1", MAC_2, "e1000", 0))
    first, new = machines.register(an_inventory(MAC_1, nics=two), "d", 1.0)
    assert new
    again, new = machines.register(an_inventory(MAC_2, nics=(two[1],)), "d", 2.0)
    assert not new and again.id == first.id
    assert machines.find_by_mac(MAC_1) is None
    assert (again.registered_s, again.seen_s) == (1.0, 2.0)


def test_machine_with_a_new_network_card_is_known_by_its_uuid(machines: MachineRepository) -> None:
    first, _ = machines.register(an_inventory(MAC_1, system_uuid=UUID), "d", 1.0)
    again, new = machines.register(an_inventory(MAC_2, system_uuid=UUID), "d", 2.0)
    assert not new and again.id == first.id


@pytest.mark.parametrize("uuid", ["", "00000000-0000-0000-0000-000000000000", "03000200-0400-0500-0006-000700080009"])
def test_uuid_that_many_boards_tell_joins_no_machines(machines: MachineRepository, uuid: str) -> None:
    first, _ = machines.register(an_inventory(MAC_1, system_uuid=uuid), "d", 1.0)
    second, new = machines.register(an_inventory(MAC_2, system_uuid=uuid), "d", 2.0)
    assert new and second.id != first.id


def test_card_that_moved_belongs_to_its_new_machine(machines: MachineRepository) -> None:
    both = (Nic("eth0", MAC_1, "", 0), Nic("eth1", MAC_2, "", 0))
    first, _ = machines.register(an_inventory(MAC_1, nics=both), "d", 1.0)
    machines.register(an_inventory(MAC_1), "d", 2.0)
    second, new = machines.register(an_inventory(MAC_2), "d", 3.0)
    assert new and second.id != first.id
    found = machines.find_by_mac(MAC_2)
    assert found is not None and found.id == second.id


def test_mac_that_is_merely_named_in_an_inventory_stays_with_its_machine(machines: MachineRepository) -> None:
    victim, _ = machines.register(an_inventory(MAC_1), "d", 1.0)
    machines.register(an_inventory(MAC_2), "d", 2.0)
    both = (Nic("eth0", MAC_2, "", 0), Nic("eth1", MAC_1, "", 0))
    thief, new = machines.register(an_inventory(MAC_2, nics=both), "d", 3.0)
    assert not new and thief.id != victim.id
    found = machines.find_by_mac(MAC_1)
    assert found is not None and found.id == victim.id


def test_stranger_who_names_a_machines_mac_without_its_uuid_is_a_new_machine(machines: MachineRepository) -> None:
    uuid = "4c4c4544-0042-3510-8051-b4c04f564432"
    victim, _ = machines.register(an_inventory(MAC_1, system_uuid=uuid), "d", 1.0)
    both = (Nic("eth0", MAC_2, "", 0), Nic("eth1", MAC_1, "", 0))
    assert machines.match(an_inventory(MAC_2, nics=both)) is None
    stranger, new = machines.register(an_inventory(MAC_2, nics=both), "d", 2.0)
    assert new and stranger.id != victim.id
    assert machines.match(an_inventory(MAC_2, nics=both, system_uuid=uuid)) == stranger.id
    assert machines.match(an_inventory(MAC_1)) == victim.id


def test_names_never_clash(machines: MachineRepository) -> None:
    first, _ = machines.register(an_inventory("52:54:00:00:00:01"), "d", 1.0)
    second, _ = machines.register(an_inventory("52:54:01:00:00:01"), "d", 1.0)
    assert (first.name, second.name) == ("pc-000001", "pc-525401000001")
    with pytest.raises(ConflictError, match="in use"):
        machines.rename(second.name, first.name)
    with pytest.raises(UserError):
        machines.rename(second.name, "all")
    assert machines.rename(MAC_1, "teacher").name == "teacher"


def test_groups_come_and_go_with_their_members(machines: MachineRepository) -> None:
    first, _ = machines.register(an_inventory(MAC_1), "d", 1.0)
    second, _ = machines.register(an_inventory(MAC_2), "d", 1.0)
    machines.set_groups(first.name, ["room-1"], [])
    machines.set_groups(second.name, ["room-1", "row-a"], [])
    assert [machine.name for machine in machines.resolve(["room-1"])] == [first.name, second.name]
    assert [machine.name for machine in machines.resolve(["row-a", second.name, MAC_2.upper()])] == [second.name]
    assert len(machines.resolve(["all"])) == 2
    machines.set_groups(second.name, [], ["row-a"])
    with pytest.raises(UnknownError, match="row-a"):
        machines.resolve(["row-a"])
    with pytest.raises(UserError, match="not in group"):
        machines.set_groups(second.name, [], ["row-a"])
    with pytest.raises(ConflictError):
        machines.set_groups(second.name, [first.name], [])
    with pytest.raises(ConflictError):
        machines.rename(first.name, "room-1")


def test_unknown_targets_are_all_named(machines: MachineRepository) -> None:
    machines.register(an_inventory(MAC_1), "d", 1.0)
    with pytest.raises(UnknownError, match="nobody, nowhere"):
        machines.resolve(["pc-000001", "nobody", "nowhere"])


def test_machine_survives_the_way_through_the_database(machines: MachineRepository) -> None:
    inventory = an_inventory(MAC_1, firmware=FirmwareKind.UEFI, secure_boot=True, product="Ünïcode <b>")
    machines.register(inventory, "d", 1.0)
    assert machines.find("pc-000001").inventory == inventory


def test_session_is_created_with_all_its_tasks_or_not_at_all(
    machines: MachineRepository, sessions: SessionRepository
) -> None:
    first, _ = machines.register(an_inventory(MAC_1), "d", 1.0)
    with pytest.raises(UnknownError):
        sessions.create_session(a_session(), [a_task(first.id), a_task(99, 2)], 2.0)
    assert sessions.sessions() == [] and sessions.tasks() == [] and sessions.events() == []
    session, tasks = sessions.create_session(a_session(), [a_task(first.id)], 2.0)
    assert sessions.session(session.id) == session
    assert sessions.open_task(first.id) == tasks[0]
    with pytest.raises(ConflictError, match="pc-000001"):
        sessions.create_session(a_session(), [a_task(first.id)], 3.0)


def test_changes_of_state_go_by_the_table(machines: MachineRepository, sessions: SessionRepository) -> None:
    machine, _ = machines.register(an_inventory(MAC_1), "d", 1.0)
    session, (task,) = sessions.create_session(a_session(), [a_task(machine.id)], 2.0)
    ok = TaskResult(True, "", ())
    with pytest.raises(ConflictError):
        sessions.end_task(task.id, TaskState.SUCCEEDED, ok, 3.0)
    assert sessions.start_task(task.id, 3.0).started_s == 3.0
    with pytest.raises(ConflictError):
        sessions.start_task(task.id, 3.0)
    ended = sessions.end_task(task.id, TaskState.SUCCEEDED, ok, 4.0)
    assert (ended.state, ended.ended_s) == (TaskState.SUCCEEDED, 4.0)
    with pytest.raises(ConflictError):
        sessions.end_task(task.id, TaskState.FAILED, TaskResult(False, "no", ()), 5.0)
    done = sessions.change_session(session.id, SessionState.DONE, 5.0, {"sent_bytes": 5.0})
    assert (done.state, done.ended_s, done.statistics) == (SessionState.DONE, 5.0, {"sent_bytes": 5.0})
    with pytest.raises(ConflictError):
        sessions.change_session(session.id, SessionState.SENDING, 6.0)
    assert [event.text for event in sessions.events(session_id=session.id)] == [
        "pc-000001 shall deploy golden",
        "pc-000001 began its deploy",
        "pc-000001: deploy succeeded",
        f"session {session.id} is done",
    ]
    assert sessions.open_sessions() == [] and sessions.open_task(machine.id) is None


def test_old_events_are_forgotten(sessions: SessionRepository) -> None:
    for number in range(10):
        sessions.add_event(f"event {number}", float(number))
    sessions.prune_events(3)
    assert [event.text for event in sessions.events()] == ["event 7", "event 8", "event 9"]


def test_strangers_cannot_fill_the_database(machines: MachineRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netboot.persistence.machines.MOST_MACHINES", 2)
    machines.register(an_inventory(MAC_1), "d", 1.0)
    machines.register(an_inventory(MAC_2), "d", 1.0)
    with pytest.raises(ConflictError, match="no more"):
        machines.register(an_inventory("52:54:00:00:00:03"), "d", 1.0)
    assert not machines.register(an_inventory(MAC_1), "d", 2.0)[1]
