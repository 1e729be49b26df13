"""Who is given the catalogue of an open file cast; and one limit for what is cast and what goes by TCP."""

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from test_cast_catalogue import KEY, LOOPBACK, a_sender

from imager.errors import CastError
from imager.transport.admissions import (
    MOST_IN_VAIN_OF_ONE,
    MOST_OF_ONE,
    MOST_UNJOINED,
    MOST_UNJOINED_OF_ONE,
    UNJOINED_S,
    Admissions,
)
from imager.transport.budget import FETCHING_S, Budget
from imager.transport.catalogue import fetch_catalogue
from imager.transport.file_cast import FileCastNote, ReceiveOptions, SendOptions, SendResult
from imager.transport.file_receive import receive_file
from imager.transport.file_send import send_file

STRANGER, OTHER = "10.0.0.66", "10.0.0.7"


def admitted(admissions: Admissions, address: str, numbers: range, now: float = 0.0, joins: bool = False) -> None:
    for number in numbers:
        assert not admissions.refusal(address, now)
        admissions.admit(number, address, now)
        if joins:
            admissions.join(number)


def test_an_address_that_never_joins_is_refused_until_time_passes_and_the_others_are_not() -> None:
    admissions = Admissions()
    admitted(admissions, STRANGER, range(1, 1 + MOST_UNJOINED_OF_ONE))
    assert "did not join" in admissions.refusal(STRANGER, 0.9 * UNJOINED_S)
    assert not admissions.refusal(OTHER, 0.9 * UNJOINED_S)
    assert not admissions.refusal(STRANGER, UNJOINED_S)


def test_who_joins_makes_room_for_the_next_of_its_address() -> None:
    admissions = Admissions()
    admitted(admissions, OTHER, range(1, 1 + MOST_UNJOINED_OF_ONE))
    admissions.join(1)
    admissions.join(1)
    admitted(admissions, OTHER, range(100, 101))
    assert admissions.refusal(OTHER, 0.0)


def test_many_addresses_that_never_join_are_refused_in_all_and_it_is_said_what_helps() -> None:
    admissions = Admissions()
    for number in range(1, 1 + MOST_UNJOINED):
        admitted(admissions, f"10.0.{number % 200}.1", range(number, number + 1))
    assert "--key" in admissions.refusal(OTHER, 1.0)
    assert not admissions.refusal(OTHER, UNJOINED_S)


def test_an_address_that_was_waited_for_in_vain_too_often_keeps_no_sending_from_its_end() -> None:
    admissions = Admissions()
    for turn in range(MOST_IN_VAIN_OF_ONE):
        admitted(admissions, STRANGER, range(turn + 1, turn + 2), turn * UNJOINED_S)
        admissions.note_in_vain(STRANGER)
    assert "not admitted again" in admissions.refusal(STRANGER, 1e9)
    assert not admissions.refusal(OTHER, 1e9)


def test_one_address_never_uses_up_the_numbers_of_a_cast() -> None:
    admissions = Admissions()
    admitted(admissions, STRANGER, range(1, 1 + MOST_OF_ONE), joins=True)
    assert "start the sending again" in admissions.refusal(STRANGER, 1e9)
    assert not admissions.refusal(OTHER, 0.0)


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "sealed"])
def test_who_is_refused_reads_why_on_one_line(key: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(peer: str) -> None:
        raise CastError(f"{peer} has to\nwait\x1b[2J" + "." * 1000)

    with a_sender(key) as (port, offering):
        monkeypatch.setattr(offering, "offer", refuse)
        with pytest.raises(CastError, match=r"admits nobody from here now: 127.0.0.1 has to\?wait\?\[2J\.+$") as told:
            fetch_catalogue(LOOPBACK, port, key=key)
        assert len(str(told.value)) < 400
        assert offering.wanted == []


def taken(port: int) -> dict[str, Any]:
    """What a stranger at an address of its own is given, who then says that it lacks all, and never joins."""
    with (
        socket.create_connection((LOOPBACK, port), timeout=20, source_address=("127.0.0.66", 0)) as connection,
        connection.makefile("rb") as said,
    ):
        connection.sendall(b"RCF1" + bytes(2 + 16))
        said.read(4 + 1 + 16)
        told: dict[str, Any] = json.loads(said.read(int.from_bytes(said.read(4), "big")))
        if "refused" not in told:
            connection.sendall(b"\0\0\0\1\x80")
            said.read()
        return told


def test_a_stranger_who_takes_the_catalogue_again_and_again_is_refused_and_the_room_gets_its_file(
    tmp_path: Path,
) -> None:
    source, copy = tmp_path / "file", tmp_path / "copy"
    source.write_bytes(os.urandom(30_000))
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    notes: list[FileCastNote] = []
    results: list[SendResult] = []
    listening = threading.Event()

    def send() -> None:
        options = SendOptions("lo", port=port, max_wait_s=0.1, silence_timeout_s=1)
        results.append(send_file(source, options, lambda _: listening.set(), notes.append))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        receiving = threading.Thread(target=receive_file, args=(copy, ReceiveOptions("lo", port=port, max_wait_s=30)))
        assert listening.wait(30)
        given = []
        while len(given) <= MOST_UNJOINED_OF_ONE:
            try:
                given.append(taken(port))
            except ConnectionRefusedError:  # it hashes the file first
                continue
        receiving.start()
        receiving.join(60)
    finally:
        sending.join(60)
    assert copy.read_bytes() == source.read_bytes()
    assert {each["cast"]["receiver"] for each in given[:-1]} == set(range(1, 1 + MOST_UNJOINED_OF_ONE))
    assert "did not join" in given[-1]["refused"]
    assert results[0].receivers_done == 1
    assert [note.receiver for note in notes if note.what == "refused"] == ["127.0.0.66"]


GIGABIT = 1_000_000_000


def test_what_sends_alone_has_the_whole_limit() -> None:
    budget = Budget(GIGABIT)
    assert budget.cast_bps(0.0) == GIGABIT
    assert given_for(budget, 10.0, casts=False) == pytest.approx(GIGABIT * 10, rel=0.1)


def test_cast_and_tcp_have_half_of_the_limit_each_until_nothing_was_fetched_for_a_while() -> None:
    budget = Budget(GIGABIT)
    by_tcp = given_for(budget, 10.0, casts=True)
    assert budget.cast_bps(10.0) == GIGABIT // 2
    assert by_tcp + budget.cast_bps(10.0) * 10 <= 1.01 * GIGABIT * 10
    assert budget.cast_bps(10.0 + FETCHING_S + 0.1) == GIGABIT


def test_without_a_limit_nobody_waits() -> None:
    budget = Budget(0)
    assert budget.fetch(1 << 20, True, 5.0) == 5.0
    assert budget.cast_bps(5.0) == 0


def given_for(budget: Budget, seconds: float, casts: bool) -> float:
    """Bits by TCP of one that asks for the next chunk when it has one."""
    now, given = 0.0, 0
    while now < seconds:
        now = budget.fetch(1 << 20, casts, now)
        given += 8 << 20
    return given
