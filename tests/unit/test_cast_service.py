"""The appliance's casts: restarts, receivers that come as the sender ends, and what fails beside them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from deployment_builders import Bench, a_bench, done
from inventories import an_inventory
from rich.console import Console
from sqlalchemy import text

from imager.errors import CastError
from imager.multicast.events import Limit, RateReason, ReceiverFailed
from imager.transport.receive import ReceiveProcess
from imager.wire.messages import Admission, CastAddress, Task, decode
from imager.wire.session import MAX_RECEIVER
from netboot.cli.watch import draw_session
from netboot.services.cast import FETCHING_S
from netboot.services.open_cast import GATHER_S, MOST_DEATHS

A = b"a" * 4096
LOOPBACK = "127.0.0.1"


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


async def take(machine: Any) -> CastAddress:
    """Take the task, lacking the only chunk."""
    task = decode(Task, (await machine.get("/agent/v1/task")).content)
    assert task.deploy is not None
    return await ready(machine, task.id)


async def ready(machine: Any, task_id: int) -> CastAddress:
    answer = await machine.post(f"/agent/v1/tasks/{task_id}/ready", content=b"\x80")
    cast = decode(Admission, answer.content).cast
    assert cast is not None
    return cast


async def until_told(bench: Bench, session_id: int, word: str) -> None:
    """Return when an event of the session says this."""
    while True:
        version = bench.appliance.changes.version
        session = (await bench.admin.get(f"/api/v1/sessions/{session_id}")).json()
        if any(word in event["text"] for event in session["events"]):
            return
        await bench.appliance.changes.wait(version, 1.0)


def receive_all(receiver: ReceiveProcess) -> dict[int, bytes]:
    found = {}
    for chunk in receiver.chunks():
        found[chunk.index] = bytes(chunk.data)
        receiver.release(chunk.index, True)
    receiver.done()
    return found


def test_machine_of_an_appliance_that_died_is_admitted_to_its_successors_cast(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            first, client = await bench.register(an_inventory("52:54:00:00:00:01"))
            second, _ = await bench.register(an_inventory("52:54:00:00:00:02"))
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", first.name, second.name)  # which waits for the second
            address = await take(client)
            receiver = ReceiveProcess(address, LOOPBACK, manifest.stored_lengths, sender_timeout_s=4)
            receiver.start()
            await until_told(bench, 1, "receives the cast")
            cast = bench.appliance.casts._casts[1]
            process, cast.process = cast.process, None
            assert process is not None and process._child is not None
            asyncio.get_running_loop().remove_reader(process.fileno())
            await asyncio.to_thread(process._child.close)  # as when the appliance is killed: no Stop before
        async with a_bench(tmp_path) as bench:
            await bench.appliance.orders.resume()
            with pytest.raises(CastError, match="nothing more came from the sender"):
                await asyncio.to_thread(list, receiver.chunks())
            receiver.stop()
            _, client = await bench.register(an_inventory("52:54:00:00:00:01"))
            again = await take(client)
            assert (again.session, again.cast_key) != (address.session, address.cast_key)
            assert (again.group, again.control_port) == (address.group, address.control_port)
            await bench.admin.post("/api/v1/tasks/2/cancel")
            receiver = ReceiveProcess(again, LOOPBACK, manifest.stored_lengths)
            receiver.start()
            assert set(await asyncio.to_thread(receive_all, receiver)) == {0}
            receiver.stop()

    run(story())


def test_session_whose_port_another_program_has_takes_any(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            _, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", "all")
            port = (await take(client)).control_port
            session = await bench.appliance.database.run(bench.appliance.sessions.session, 1)
            manifest = await bench.appliance.images.manifest("golden", 1)
            casts = bench.appliance.casts
            other, _ = casts._casts[1], casts._casts.clear()
            await casts.open(session, manifest, [1], "127.0.0.1")
            assert (await ready(client, 1)).control_port not in (0, port)
            casts._casts[2] = other  # for the end to close it

    run(story())


def test_machine_that_comes_again_has_another_number_and_key_and_the_old_ones_say_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            first, client = await bench.register(an_inventory("52:54:00:00:00:01"))
            second, _ = await bench.register(an_inventory("52:54:00:00:00:02"))
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", first.name, second.name)
            before = await take(client)
            after = await ready(client, 1)
            assert (after.session, after.cast_key) == (before.session, before.cast_key)
            assert after.receiver != before.receiver and after.control_key != before.control_key
            receiver = ReceiveProcess(before, LOOPBACK, manifest.stored_lengths)
            receiver.start()
            with pytest.raises(CastError, match="gave this receiver up"):
                await asyncio.to_thread(list, receiver.chunks())
            receiver.stop()

    run(story())


def test_machine_that_comes_when_all_are_served_gets_a_cast_of_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            _, client = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", "all")
            found: list[CastAddress] = []
            for _ in range(2):
                found.append(await take(client) if not found else await ready(client, 1))
                receiver = ReceiveProcess(found[-1], LOOPBACK, manifest.stored_lengths)
                receiver.start()
                assert set(await asyncio.to_thread(receive_all, receiver)) == {0}
                receiver.stop()
                while not bench.appliance.casts._casts[1].may_end:
                    await bench.appliance.changes.wait(bench.appliance.changes.version, 0.2)
            assert found[0].cast_key != found[1].cast_key and found[0].session != found[1].session
            assert found[0].control_port == found[1].control_port

    run(story())


async def until(bench: Bench, condition: Callable[[], bool]) -> None:
    while not condition():
        await bench.appliance.changes.wait(bench.appliance.changes.version, 0.2)


def test_session_whose_sender_died_gets_another_which_waits_for_who_was_receiving(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machines = [await bench.register(an_inventory(f"52:54:00:00:00:0{number}")) for number in (1, 2)]
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", *(registration.name for registration, _ in machines))
            before = [await take(client) for _, client in machines]
            receivers = [ReceiveProcess(each, LOOPBACK, manifest.stored_lengths) for each in before]
            for receiver in receivers:
                receiver.start()
            casts = bench.appliance.casts
            cast = casts._casts[1]
            await until(bench, lambda: cast.begun)
            assert casts.listens(1, 1, before[0].session)
            assert cast.process is not None and cast.process._child is not None
            cast.process._child.process.kill()
            await until_told(bench, 1, "waits for a sender: the one before died")
            assert not casts.listens(1, 1, before[0].session)
            for receiver in receivers:
                receiver.stop()
            after = [await ready(client, task) for task, (_, client) in enumerate(machines, 1)]
            assert {each.session for each in after} != {before[0].session} and after[0].session == after[1].session
            receivers = [ReceiveProcess(each, LOOPBACK, manifest.stored_lengths) for each in after]
            receivers[0].start()
            await until(bench, lambda: 1 in cast.joined)
            assert not cast.begun, "the second is waited for"
            bench.clock.now_s += GATHER_S
            await until(bench, lambda: cast.begun)
            receivers[1].start()
            for receiver in receivers:
                assert set(await asyncio.to_thread(receive_all, receiver)) == {0}
                receiver.stop()

    run(story())


def test_cast_that_can_number_nobody_else_goes_on_and_who_comes_fetches_its_chunks(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            machines = [await bench.register(an_inventory(f"52:54:00:00:00:0{number}")) for number in (1, 2)]
            manifest = bench.keep_image("golden", A)
            await bench.deploy("golden", *(registration.name for registration, _ in machines))
            receiver = ReceiveProcess(await take(machines[0][1]), LOOPBACK, manifest.stored_lengths)
            receiver.start()
            process = bench.appliance.casts._casts[1].process
            assert process is not None
            process._admitted = MAX_RECEIVER  # as after so many restarts of machines
            task = decode(Task, (await machines[1][1].get("/agent/v1/task")).content)
            answer = await machines[1][1].post(f"/agent/v1/tasks/{task.id}/ready", content=b"\x80")
            admission = decode(Admission, answer.content)
            assert admission.unicast and admission.cast is None
            assert "open another session" in admission.reason
            assert set(await asyncio.to_thread(receive_all, receiver)) == {0}
            receiver.stop()
            await until_told(bench, 1, "has every chunk")

    run(story())


def test_senders_that_die_one_after_the_other_fail_the_session(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            _, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", "all")
            await take(client)
            cast = bench.appliance.casts._casts[1]
            for death in range(MOST_DEATHS + 1):
                assert cast.process is not None and cast.process._child is not None
                cast.process._child.process.kill()
                await until(bench, lambda: cast.process is None)
                if death < MOST_DEATHS:
                    await ready(client, 1)
            await until_told(bench, 1, "sending broke off: the sending process ended unexpectedly")

    run(story())


def test_sessions_that_send_share_what_the_appliance_may_send(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            current = bench.appliance.current
            current.settings = replace(current.settings, max_bitrate_bps=90_000_000)
            casts = bench.appliance.casts
            receivers = []
            for number in (1, 2):
                registration, client = await bench.register(an_inventory(f"52:54:00:00:00:0{number}"))
                manifest = bench.keep_image(f"golden-{number}", A)
                await bench.deploy(f"golden-{number}", registration.name)
                receivers.append(ReceiveProcess(await take(client), LOOPBACK, manifest.stored_lengths))
                receivers[-1].start()
                await until(bench, lambda number=number: casts._casts[number].begun)  # type: ignore[misc]
            await until(bench, lambda: [casts._casts[each].total_bps for each in (1, 2)] == [45_000_000, 45_000_000])
            await casts.pace_unicast(2, 0)
            await until(bench, lambda: casts._casts[1].total_bps == 30_000_000)
            assert casts._casts[2].unicast_bps == 30_000_000
            await casts.leave(2, 1, "it is gone")
            bench.clock.now_s += FETCHING_S + 1
            await until(bench, lambda: casts._casts[1].total_bps == 90_000_000)
            for receiver in receivers:
                receiver.stop()

    run(story())


def test_what_was_sent_is_counted_though_the_session_closes_while_its_end_is_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            manifest = bench.keep_image("golden", A)
            told, told_now, go_on = bench.appliance.cast_events.told, asyncio.Event(), asyncio.Event()
            casts = bench.appliance.casts

            async def slowly(session_id: int, receiver: int, text: str) -> None:
                if "has every chunk" in text:
                    while not casts._casts[1].counted:  # the sender's end comes with this event or soon after
                        await casts._look(1, casts._casts[1], Quiet())
                    told_now.set()
                    await go_on.wait()
                await told(session_id, receiver, text)

            monkeypatch.setattr(bench.appliance.cast_events, "told", slowly)
            await bench.deploy("golden", registration.name)
            receiver = ReceiveProcess(await take(client), LOOPBACK, manifest.stored_lengths)
            receiver.start()
            await asyncio.to_thread(receive_all, receiver)
            receiver.stop()
            await told_now.wait()
            await client.post("/agent/v1/tasks/1/result", content=done(manifest.hash.hex()))
            go_on.set()
            session = (await bench.admin.get("/api/v1/sessions/1")).json()
            assert session["state"] == "done"
            assert session["statistics"]["sent_bytes"] > 0

    run(story())


def test_the_session_says_how_fast_is_sent_and_why_not_faster(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            await bench.deploy("golden", registration.name)
            await take(client)
            await bench.appliance.cast_events.began(1)
            reason = RateReason(Limit.DISK, receiver=1, receivers=1, of=1)
            await bench.appliance.cast_events.paced(1, 9.4e8, reason)
            session = (await bench.admin.get("/api/v1/sessions/1")).json()
            assert session["pace"] == {"sent_bps": 9.4e8, "reason": f"machine {registration.name}'s disk"}
            shown = StringIO()
            Console(width=100, file=shown).print(draw_session(session))
            assert f"sends 940 Mbit/s: machine {registration.name}'s disk" in shown.getvalue()

    run(story())


class Quiet:
    """A listener that keeps nothing."""

    async def began(self, session_id: int) -> None: ...

    async def told(self, session_id: int, receiver: int, text: str) -> None: ...

    async def counted(self, session_id: int, receiver: int, lost_packets: int) -> None: ...

    async def paced(self, session_id: int, sent_bps: float, reason: RateReason) -> None: ...

    async def broke(self, session_id: int, receivers: Sequence[int], reason: str) -> None: ...


def test_failure_that_cannot_even_be_noted_ends_no_other_cast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            first, first_client = await bench.register(an_inventory("52:54:00:00:00:01"))
            second, second_client = await bench.register(an_inventory("52:54:00:00:00:02"))
            manifest = bench.keep_image("golden", A)
            events = bench.appliance.cast_events
            began, told = events.began, asyncio.Event()

            async def fails_once(session_id: int) -> None:
                if session_id == 1:
                    raise OSError("the database is away")
                await began(session_id)

            async def broke(session_id: int, receivers: Sequence[int], reason: str) -> None:
                told.set()
                raise OSError("the database is away")

            monkeypatch.setattr(events, "began", fails_once)
            monkeypatch.setattr(events, "broke", broke)
            await bench.deploy("golden", first.name)
            await first_client.get("/agent/v1/task")
            await first_client.post("/agent/v1/tasks/1/ready", content=b"\x00")
            await told.wait()
            await bench.deploy("golden", second.name)
            receiver = ReceiveProcess(await take(second_client), LOOPBACK, manifest.stored_lengths)
            receiver.start()
            assert set(await asyncio.to_thread(receive_all, receiver)) == {0}
            receiver.stop()

    run(story())


def test_database_that_fails_is_an_answer_in_one_line(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            with bench.appliance.database.transaction() as transaction:
                transaction.execute(text("ALTER TABLE machine RENAME TO gone"))
            answer = await bench.admin.get("/api/v1/machines")
            assert answer.status_code == 500
            assert "no such table" in answer.json()["detail"] and "roomcast.db" in answer.json()["detail"]

    run(story())


def test_machine_that_is_too_slow_fails_with_that_reason_where_the_session_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            registration, client = await bench.register(an_inventory())
            bench.keep_image("golden", A)
            session = await bench.admin.post(
                "/api/v1/deploy",
                json={"image": "golden", "to": [registration.name], "slow": "fail", "floor_bps": 10**7},
            )
            assert (session.json()["slow"], session.json()["floor_bps"]) == ("fail", 10**7)
            address = await take(client)
            casts = bench.appliance.casts
            slow = ReceiverFailed(address.receiver, "too slow: it takes in 2 of 95 Mbit/s", is_final=True)
            await casts._hear(1, casts._casts[1], slow, bench.appliance.cast_events)
            (task,) = (await bench.admin.get("/api/v1/sessions/1")).json()["tasks"]
            assert (task["state"], task["error"]) == ("failed", "too slow: it takes in 2 of 95 Mbit/s")

    run(story())
