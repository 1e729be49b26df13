"""The agent's conversation with an appliance that restarts, forgets, refuses and hangs up."""

import threading
from collections.abc import Iterator

import pytest
from agent_appliance import Appliance
from inventories import an_inventory

from imager.agent.client import ApplianceClient, Refused, TaskGone
from imager.errors import ApplianceError, MessageError
from imager.wire.messages import Progress, Task, TaskKind, TaskResult

INVENTORY = an_inventory()
PROGRESS = Progress("receive", 1, 2, 3.0)


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with Appliance() as started:
        yield started


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def client(appliance: Appliance, said: list[str], monkeypatch: pytest.MonkeyPatch) -> ApplianceClient:
    monkeypatch.setattr("imager.agent.client.FIRST_PAUSE_S", 0.01)
    made = ApplianceClient(appliance.url, lambda: INVENTORY, said.append)
    made.register(5)
    return made


def test_registering_says_who_we_are_and_takes_the_token(client: ApplianceClient, appliance: Appliance) -> None:
    assert appliance.registrations == [INVENTORY]
    assert client.next_task(0).kind is TaskKind.WAIT


def test_a_task_comes_as_soon_as_there_is_one(client: ApplianceClient, appliance: Appliance) -> None:
    threading.Timer(0.05, appliance.tasks.put, [Task(4, TaskKind.BOOT_LOCAL)]).start()
    assert client.next_task(20) == Task(4, TaskKind.BOOT_LOCAL)


def test_trouble_of_the_appliance_is_waited_out(client: ApplianceClient, appliance: Appliance, said: list[str]) -> None:
    appliance.answers += [(503, b"starting"), (500, b""), (0, b"")]
    assert client.next_task(0).kind is TaskKind.WAIT
    assert said == ["the appliance has trouble (status 503: starting); trying again"]


def test_a_connection_that_was_closed_between_two_requests_is_no_trouble(
    client: ApplianceClient, appliance: Appliance, said: list[str]
) -> None:
    appliance.answers += [(0, b"")]
    client.progress(4, PROGRESS)
    assert appliance.progress == [PROGRESS]
    assert said == []


def test_an_appliance_that_forgot_us_is_told_again(
    client: ApplianceClient, appliance: Appliance, said: list[str]
) -> None:
    appliance.forget_machines()
    client.result(4, TaskResult(False, "no disk", ()))
    assert len(appliance.registrations) == 2
    assert [result.error for result in appliance.results] == ["no disk"]
    assert "registering again" in said[0]


def test_a_heartbeat_is_not_repeated(client: ApplianceClient, appliance: Appliance) -> None:
    appliance.answers += [(503, b"")]
    with pytest.raises(ApplianceError):
        client.progress(4, PROGRESS)
    client.progress(4, PROGRESS)
    assert appliance.progress == [PROGRESS]


def test_a_cancelled_task_is_told_apart_from_trouble(client: ApplianceClient, appliance: Appliance) -> None:
    appliance.cancelled = True
    with pytest.raises(TaskGone, match="cancelled by a person"):
        client.progress(4, PROGRESS)


def test_a_refusal_is_not_repeated_and_says_why(client: ApplianceClient, appliance: Appliance) -> None:
    appliance.answers += [(409, b'{"detail": "two machines of that name"}')]
    before = len(appliance.requests)
    with pytest.raises(Refused, match="409: two machines of that name"):
        client.publish(4, b"manifest")
    assert len(appliance.requests) == before + 1


def test_chunks_are_asked_for_and_handed_over(client: ApplianceClient, appliance: Appliance) -> None:
    digest = bytes(range(32))
    assert not client.has_chunk(4, digest)
    client.put_chunk(4, digest, b"stored")
    assert client.has_chunk(4, digest)
    assert appliance.chunks == {digest.hex(): b"stored"}


def test_several_threads_speak_at_once_and_register_again_once(client: ApplianceClient, appliance: Appliance) -> None:
    appliance.forget_machines()
    threads = [threading.Thread(target=client.put_chunk, args=(4, bytes([i]) * 32, b"x")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(appliance.chunks) == 8
    assert len(appliance.registrations) == 2


def test_nobody_there_is_one_line_with_the_address(said: list[str]) -> None:
    with Appliance() as gone:
        pass
    client = ApplianceClient(gone.url, lambda: INVENTORY, said.append)
    with pytest.raises(ApplianceError, match=f"no answer from the appliance at 127.0.0.1:{gone.port}"):
        client.register(0)


def test_what_answers_nonsense_is_not_our_appliance(appliance: Appliance, said: list[str]) -> None:
    appliance.answers += [(200, b"<html>It works!</html>")]
    with pytest.raises(MessageError):
        ApplianceClient(appliance.url, lambda: INVENTORY, said.append).register(0)


@pytest.mark.parametrize("server", ["", "10.77.0.1:80", "https://10.77.0.1", "ftp://x", "http://"])
def test_a_server_that_is_no_http_address_is_refused_at_once(server: str) -> None:
    with pytest.raises(ApplianceError, match=r"roomcast\.server"):
        ApplianceClient(server, lambda: INVENTORY, print)
