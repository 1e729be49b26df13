"""Connections of strangers to the HTTP servers: bounded in number and in time, on real sockets of loopback."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from netboot.services.connections import Door, Limits, agents_limits, other_limits, raise_open_files
from netboot.services.http import bind_tcp, serve_http
from netboot.services.sendfile import DESCRIPTORS_EACH

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LONG_S = 600.0
WAIT_S = 20


async def an_app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Client:
    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, source: str = "127.0.0.1") -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(source, 0))
        self._writers.append(writer)
        return reader, writer

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


async def answer_to(connection: Connection, request: bytes = GET) -> bytes:
    """The answer, empty when the server closed the connection."""
    reader, writer = connection
    try:
        writer.write(request)
        async with asyncio.timeout(WAIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            return head + await reader.readexactly(2)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def closed(connection: Connection) -> bool:
    try:
        async with asyncio.timeout(WAIT_S):
            return await connection[0].read() == b""
    except ConnectionError:
        return True


@asynccontextmanager
async def a_server(limits: Limits) -> AsyncIterator[Client]:
    sock = bind_tcp("127.0.0.1", 0)
    client = Client(sock.getsockname()[1])
    serving = asyncio.create_task(serve_http(an_app, sock, limits))
    try:
        yield client
    finally:
        client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def test_peer_that_holds_its_share_is_turned_away_and_others_are_served() -> None:
    async def story() -> None:
        async with a_server(Limits(100, per_peer=3, request_s=LONG_S)) as client:
            held = [await client.connect() for _ in range(3)]
            assert await closed(await client.connect())
            assert b"200" in await answer_to(await client.connect("127.0.0.2"))
            for connection in held:
                assert b"200" in await answer_to(connection)
            held[0][1].close()
            await held[0][1].wait_closed()
            async with asyncio.timeout(WAIT_S):
                while not await answer_to(await client.connect()):
                    pass  # the server hears of the close a moment later

    asyncio.run(story())


def test_connections_of_all_peers_together_are_bounded() -> None:
    async def story() -> None:
        async with a_server(Limits(4, request_s=LONG_S)) as client:
            held = [await client.connect(f"127.0.0.{number}") for number in range(2, 6)]
            assert await closed(await client.connect("127.0.0.9"))
            for connection in held:
                assert b"200" in await answer_to(connection)

    asyncio.run(story())


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n"])
def test_connection_that_asks_for_nothing_is_closed(said: bytes) -> None:
    async def story() -> None:
        async with a_server(Limits(10, request_s=0.05)) as client:
            connection = await client.connect()
            connection[1].write(said)
            assert await closed(connection)

    asyncio.run(story())


def test_second_request_of_a_connection_has_its_time_too() -> None:
    async def story() -> None:
        async with a_server(Limits(10, request_s=0.2)) as client:
            connection = await client.connect()
            assert b"200" in await answer_to(connection)
            connection[1].write(b"GET / HT")
            assert await closed(connection)

    asyncio.run(story())


def test_body_that_stops_is_not_waited_for() -> None:
    async def story() -> None:
        async with a_server(Limits(10, request_s=LONG_S, body_silence_s=0.05)) as client:
            connection = await client.connect()
            connection[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            assert await closed(connection)

    asyncio.run(story())


def test_whole_bodies_are_answered_on_one_connection() -> None:
    async def story() -> None:
        async with a_server(Limits(10, request_s=LONG_S, body_silence_s=LONG_S)) as client:
            connection = await client.connect()
            for _ in range(3):
                request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
                assert b"200" in await answer_to(connection, request)

    asyncio.run(story())


def test_door_forgets_who_left() -> None:
    door = Door(Limits(2, per_peer=1))
    for number in range(1000):
        assert door.enter(f"peer-{number}")
        assert not door.enter(f"peer-{number}")
        door.leave(f"peer-{number}")
    assert door.turned_away == 1000


def test_servers_together_leave_descriptors_for_the_rest() -> None:
    for files in (256, 1024, 4096, 1 << 20):
        taken = DESCRIPTORS_EACH * agents_limits(files).connections + 2 * other_limits(files).connections
        assert taken <= files * 3 // 4
        assert (agents_limits(files).per_peer or 0) * 4 <= max(files, 256)


def test_open_files_are_raised_to_what_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        assert raise_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
