"""Leases on the disk: what was committed is there, damage is told and never becomes an empty file."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import structlog
from lease_builders import FIRST, Clocks, a_lease, changes, open_leases

from netboot.dhcp.lease_time import ClockReading
from netboot.dhcp.leases import Lease, LeaseState
from netboot.errors import ServiceError
from netboot.persistence.lease_file import LEASE_FILE_VERSION, backup_of, recover_leases
from netboot.persistence.write_ahead_log import lost_commits

READING = ClockReading("a boot", 1.0, 2.0, 3.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases.db"


def write(path: Path, leases: list[Lease], gone: list[IPv4Address] | None = None, lease_s: float = 3.0) -> None:
    file = open_leases(path)
    file.write(changes(leases, gone or []), ClockReading("a boot", 1.0, 2.0, lease_s))
    file.close()


def leases_in(path: Path) -> list[Lease]:
    file = open_leases(path)
    file.close()
    return file.load()


def crashed_copy(path: Path, directory: Path) -> Path:
    """The file as a crash of its process leaves it: with its write-ahead log."""
    directory.mkdir()
    for part in path.parent.glob(f"{path.name}*"):
        if not part.name.endswith("-shm"):
            shutil.copy(part, directory)
    return directory / path.name


def test_what_was_written_is_there_when_it_is_opened_again(path: Path) -> None:
    kept = [a_lease(1), a_lease(2, 7.5, LeaseState.DECLINED), a_lease(4)]
    write(path, [*kept, a_lease(3)])
    write(path, [], gone=[FIRST + 3, FIRST + 99])
    assert sorted(leases_in(path), key=str) == sorted(kept, key=str)
    assert path.stat().st_mode & 0o777 == backup_of(path).stat().st_mode & 0o777 == 0o600


def test_what_was_written_is_there_without_a_close(path: Path, tmp_path: Path) -> None:
    file = open_leases(path)
    for number in range(20):
        file.write(changes([a_lease(number)]), READING)
        assert len(leases_in(crashed_copy(path, tmp_path / str(number)))) == number + 1
    file.close()


def test_a_new_file_begins_with_the_earlier_leases_and_never_takes_them_again(path: Path) -> None:
    first = open_leases(path, earlier=[a_lease(1)])
    first.close()
    assert first.load() == [a_lease(1)]
    again = open_leases(path, earlier=[a_lease(2)])
    again.close()
    assert again.load() == [a_lease(1)]


def test_the_clock_is_kept_with_every_write(path: Path) -> None:
    clocks = Clocks()
    open_leases(path, clocks).close()
    file = open_leases(path)
    assert file.reading == ClockReading("first boot", 1000.0, 1_700_000_000.0, 1_700_000_000.0)
    file.write({}, READING)
    file.close()
    file = open_leases(path)
    assert file.reading == READING
    file.close()


def test_a_write_that_fails_changes_nothing(path: Path) -> None:
    file = open_leases(path)
    file.write(changes([a_lease(1)]), READING)
    file._connection.execute("PRAGMA max_page_count = 3")  # a full disk, as SQLite sees it
    with pytest.raises(sqlite3.OperationalError, match="full"):
        file.write(changes([a_lease(number) for number in range(250)], gone=[FIRST + 1]), READING)
    file._connection.execute("PRAGMA max_page_count = 1000")
    file.write(changes([a_lease(2)]), READING)
    file.close()
    assert leases_in(path) == [a_lease(1), a_lease(2)]


# Damage

Damage = Callable[[Path], None]


def cut_to(share: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip_a_bit_of(text: bytes) -> Damage:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[data.index(text)] ^= 4
        path.write_bytes(data)

    return flip


def overwrite_page(number: int) -> Damage:
    def overwrite(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[number * 4096 : (number + 1) * 4096] = random.Random(number).randbytes(4096)
        path.write_bytes(data)

    return overwrite


DAMAGES = {
    "emptied": cut_to(0),
    "cut in the middle": cut_to(0.5),
    "cut at its end": cut_to(0.9),
    "a bit of a MAC": flip_a_bit_of(b"52:54:00:00:00:15"),
    "a bit of an address": flip_a_bit_of(b"10.77.0.120"),
    "a bit of the header": flip_a_bit_of(b"SQLite format 3"),
    "a bit of the boot's name": flip_a_bit_of(b"a boot"),
    "its first page": overwrite_page(0),
    "a page of leases": overwrite_page(2),
    "removed": Path.unlink,
}


def backed_up_and_damaged(path: Path, damage: Damage, keep_copy: bool) -> None:
    """Forty leases in the file, thirty of them in its copy; then the damage."""
    write(path, [a_lease(number) for number in range(30)])
    open_leases(path).close()  # makes the copy
    copy = backup_of(path).read_bytes()
    write(path, [a_lease(number) for number in range(30, 40)], lease_s=4.0)
    backup_of(path).write_bytes(copy)
    if not keep_copy:
        backup_of(path).unlink()
    damage(path)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_served_from_its_last_good_copy_loudly(path: Path, damage: Damage) -> None:
    backed_up_and_damaged(path, damage, keep_copy=True)
    with structlog.testing.capture_logs() as logs:
        leases = leases_in(path)
    assert sorted(leases, key=lambda lease: lease.address) == [a_lease(number) for number in range(30)]
    (told,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert told["file"] == str(path)
    assert told["copy"] == "leases.db.bak"
    assert told["copy_of"].startswith("1970-01-01")  # its reading's wall clock
    assert leases_in(path) == leases  # and is whole from now on
    if damage is not Path.unlink:
        assert path.with_name(told["damaged_file_kept_as"]).exists()


@pytest.mark.parametrize("damage", [damage for name, damage in DAMAGES.items() if name != "removed"])
def test_a_damaged_file_without_a_good_copy_is_refused_with_the_commands_that_mend_it(
    path: Path, damage: Damage
) -> None:
    backed_up_and_damaged(path, damage, keep_copy=False)
    before = path.read_bytes()
    with pytest.raises(ServiceError) as refusal:
        open_leases(path)
    assert str(path) in str(refusal.value)
    assert f"roomcast lease recover --data {path.parent}" in str(refusal.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("flip", [b"52:54:00:00:00:15", b"10.77.0.120"])
def test_recovery_brings_back_every_lease_that_can_be_read(path: Path, flip: bytes) -> None:
    write(path, [a_lease(number) for number in range(40)])
    backup_of(path).unlink()
    flip_a_bit_of(flip)(path)
    assert recover_leases(path, READING) == 39
    assert len(leases_in(path)) == 39
    assert len(list(path.parent.glob("leases.db.damaged-*"))) == 1


def test_recovery_reads_around_a_page_that_is_lost(path: Path) -> None:
    write(path, [a_lease(number) for number in range(150)])
    backup_of(path).unlink()
    pages = path.stat().st_size // 4096
    lost = next(page for page in range(2, pages) if b"10.77.0.170" in path.read_bytes()[page * 4096 :][:4096])
    overwrite_page(lost)(path)
    with pytest.raises(ServiceError, match="lease recover"):
        open_leases(path)
    recovered = recover_leases(path, READING)
    assert 60 < recovered < 150
    leases = leases_in(path)
    assert len(leases) == recovered
    assert {a_lease(0), a_lease(149)} < set(leases)


def test_recovery_of_nothing_is_refused(path: Path) -> None:
    with pytest.raises(ServiceError, match="does not exist"):
        recover_leases(path, READING)
    path.write_bytes(bytes(8192))
    with pytest.raises(ServiceError, match="no lease can be read"):
        recover_leases(path, READING)
    assert path.read_bytes() == bytes(8192)


def test_a_file_and_copy_that_are_both_damaged_are_refused(path: Path) -> None:
    backed_up_and_damaged(path, cut_to(0.5), keep_copy=True)
    cut_to(0.5)(backup_of(path))
    with pytest.raises(ServiceError, match="no good copy"):
        open_leases(path)


def test_a_file_of_a_newer_roomcast_is_refused_and_left_alone(path: Path) -> None:
    write(path, [a_lease(1)])
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {LEASE_FILE_VERSION + 1}")
    connection.close()
    with pytest.raises(ServiceError, match="newer Roomcast"):
        open_leases(path)
    assert not list(path.parent.glob("*damaged*"))


def test_recovery_leaves_a_file_of_a_newer_roomcast_alone(path: Path) -> None:
    write(path, [a_lease(1)])
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {LEASE_FILE_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ServiceError, match="newer Roomcast"):
        recover_leases(path, READING)
    assert path.read_bytes() == before


def test_a_directory_that_is_not_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="check the file, its directory"):
        open_leases(tmp_path / "file" / "leases.db")


# The write-ahead log


@pytest.fixture
def crashed(path: Path, tmp_path: Path) -> Path:
    """Fifty commits, none of them in the database's own file yet."""
    file = open_leases(path)
    for number in range(50):
        file.write(changes([a_lease(number)]), ClockReading("a boot", 1.0, 2.0, 2e9 + number))
    copy = crashed_copy(path, tmp_path / "crashed")
    file.close()
    return copy


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def test_a_log_that_a_power_cut_ended_anywhere_is_whole(crashed: Path) -> None:
    data = log_of(crashed).read_bytes()
    rng = random.Random(7)
    for _ in range(40):
        log_of(crashed).write_bytes(data[: rng.randrange(len(data))])
        assert lost_commits(log_of(crashed)) == ""
    log_of(crashed).unlink()
    assert lost_commits(log_of(crashed)) == ""


def test_a_flipped_bit_in_the_middle_of_the_log_is_found_though_sqlite_takes_it(crashed: Path) -> None:
    data = log_of(crashed).read_bytes()
    rng = random.Random(8)
    for _ in range(40):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data) - 4 * 4120)] ^= 1 << rng.randrange(8)
        log_of(crashed).write_bytes(damaged)
        assert "write-ahead log" in lost_commits(log_of(crashed))


def test_of_a_damaged_log_and_an_older_copy_the_newer_is_served(crashed: Path) -> None:
    damaged = bytearray(log_of(crashed).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    log_of(crashed).write_bytes(damaged)
    with structlog.testing.capture_logs() as logs:
        leases = leases_in(crashed)
    assert 20 < len(leases) < 30
    assert [entry["copy"] for entry in logs if entry["log_level"] == "error"] == ["leases.db"]


def test_a_lone_log_is_never_played_into_the_copy_that_takes_its_files_place(crashed: Path) -> None:
    copy = crashed.with_name("copy.db")
    write(copy, [a_lease(number) for number in range(200, 230)])
    copy.replace(backup_of(crashed))
    crashed.unlink()
    assert {lease.address for lease in leases_in(crashed)} == {FIRST + number for number in range(200, 230)}


def test_a_lone_log_is_a_file_that_was_lost_and_no_reason_to_begin_anew(crashed: Path) -> None:
    backup_of(crashed).unlink()
    crashed.unlink()
    with pytest.raises(ServiceError, match="is missing"):
        open_leases(crashed)


@pytest.mark.parametrize("is_log_moved", [False, True], ids=["log still there", "log moved too"])
def test_a_repair_that_the_power_cut_into_goes_on(crashed: Path, is_log_moved: bool) -> None:
    """What is to take the damaged file's place is whole before the damaged one is moved away."""
    whole = crashed.with_name("leases.db.whole")
    write(whole, [a_lease(number) for number in range(200, 230)])
    backup_of(whole).unlink()
    backup_of(crashed).unlink()
    crashed.rename(crashed.with_name("leases.db.damaged-20261124-120000"))
    if is_log_moved:
        log_of(crashed).rename(crashed.with_name("leases.db.damaged-20261124-120000-wal"))
    assert {lease.address for lease in leases_in(crashed)} == {FIRST + number for number in range(200, 230)}
    assert backup_of(crashed).exists()


def test_leases_written_after_a_torn_log_are_not_taken_for_damage(crashed: Path, tmp_path: Path) -> None:
    log_of(crashed).write_bytes(log_of(crashed).read_bytes()[:-2000])
    file = open_leases(crashed)
    count = len(file.load())
    file.write(changes([a_lease(90)]), READING)
    assert len(leases_in(crashed_copy(crashed, tmp_path / "again"))) == count + 1
    file.close()
