"""Boot files by HTTP as machines fetch them: the real server on loopback, and a client that sees every byte."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from deployment_builders import a_bench

from netboot.api.agent import build_agent_app
from netboot.api.boot_tree import LeasedBootFiles
from netboot.boot.contexts import BootKind, NextBoot
from netboot.boot.files import BootFiles, BootSettings
from netboot.boot.render import Renderer
from netboot.bootlog.events import Span
from netboot.services.connections import Limits
from netboot.services.http import bind_tcp, serve_http
from netboot.services.sendfile import THREADS, SendFile

KERNEL = bytes(range(256)) * 4000
LARGE_BYTES = 64 << 20
WAIT_S = 20
MAC = "52:54:00:aa:bb:01"


@dataclass
class Fetches:
    """Writes down what the boot log hears."""

    lines: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def http_started(self, peer: str, path: str, size: int, span: Span) -> None:
        self.lines.append(f"started {peer} {path} {_told(size, span)}")

    def http_ended(self, peer: str, path: str, size: int, span: Span, sent: int, seconds: float, why: str) -> None:
        assert 0 <= seconds < 600
        self.sent = sent
        self.lines.append(f"ended {peer} {path} {_told(size, span)} {_far(span, sent)} {why}".rstrip())
        self.ended.set()

    def http_refused(self, peer: str, path: str, reason: str) -> None:
        self.lines.append(f"refused {peer} {path}: {reason}")


def _told(size: int, span: Span) -> str:
    return f"{size}" if span == Span(0, size) else f"{size} [{span.first}:{span.end}]"


def _far(span: Span, sent: int) -> str:
    return "whole" if sent == span.end - span.first else "part"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    """By name as it was spelled."""
    body: bytes


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        self.say(target, method, **headers)
        return await self.hear(method)

    def say(self, target: str, method: str = "GET", **headers: str) -> None:
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        self.writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{''.join(lines)}\r\n".encode("latin-1"))

    async def hear(self, method: str = "GET") -> Answer:
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            headers = dict(line.split(": ", 1) for line in head[1:-1])
            length = 0 if method == "HEAD" else int(headers.get("Content-Length", "0"))
            return Answer(int(head[0].split()[1]), headers, await self.reader.readexactly(length))

    async def until_closed(self) -> bytes:
        """What is read until the server ends or cuts the connection."""
        read = b""
        async with asyncio.timeout(WAIT_S):
            try:
                while piece := await self.reader.read(1 << 20):
                    read += piece
            except ConnectionError:
                pass
        return read


@dataclass
class Room:
    port: int
    directory: Path
    fetches: Fetches
    clients: list[Client] = field(default_factory=list)

    async def connect(self, source: str = "127.0.0.1", receive_bytes: int | None = None) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        self.clients.append(Client(*await asyncio.open_connection(sock=sock)))
        return self.clients[-1]


def step(mac: str) -> NextBoot:
    return NextBoot(BootKind.LOCAL, "pc-07", "no task")


@asynccontextmanager
async def a_room(
    directory: Path, limits: Limits | None = None, sendfile: SendFile = os.sendfile
) -> AsyncIterator[Room]:
    data = directory / "data"
    for name, content in {"agent/vmlinuz": KERNEL, "agent/initrd.img": b"", "keys/secret": b"secret"}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    fetches = Fetches()
    async with a_bench(data) as bench:
        files = BootFiles(
            boot_directory=directory / "boot",
            agent_directory=directory / "agent",
            renderer=Renderer(None),
            settings=BootSettings(IPv4Address("127.0.0.1"), 80, "5c" * 32),
            next_boot=step,
        )
        app = build_agent_app(bench.appliance.agents, LeasedBootFiles(files, bench.appliance.given, fetches))
        sock = bind_tcp("127.0.0.1", 0)
        room = Room(sock.getsockname()[1], directory, fetches)
        serving = asyncio.create_task(serve_http(app, sock, limits or Limits(1000), sendfile))
        try:
            yield room
        finally:
            for client in room.clients:
                client.writer.transport.abort()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_a_file_goes_out_whole_and_its_headers_are_spelled_as_grub_compares_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            answer = await (await room.connect()).ask("/boot/agent/vmlinuz")
            assert (answer.status, answer.body) == (200, KERNEL)
            assert answer.headers["Content-Length"] == str(len(KERNEL))
            assert {"Etag", "Last-Modified", "Accept-Ranges"} <= {*answer.headers}
            assert "Transfer-Encoding" not in answer.headers
            async with asyncio.timeout(WAIT_S):
                await room.fetches.ended.wait()  # the client may have all of it before the log hears so
            assert room.fetches.lines == [
                "started 127.0.0.1 agent/vmlinuz 1024000",
                "ended 127.0.0.1 agent/vmlinuz 1024000 whole",
            ]

    run(story())


def test_one_connection_carries_every_kind_of_answer_one_after_the_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            client = await room.connect()
            head = await client.ask("/boot/agent/vmlinuz", "HEAD")
            assert (head.status, head.headers["Content-Length"]) == (200, str(len(KERNEL)))
            part = await client.ask("/boot/agent/vmlinuz", Range="bytes=300000-800000")
            assert (part.status, part.body) == (206, KERNEL[300000:800001])
            assert part.headers["Content-Range"] == f"bytes 300000-800000/{len(KERNEL)}"
            tail = await client.ask("/boot/agent/vmlinuz", Range="bytes=-10")
            assert (tail.status, tail.body) == (206, KERNEL[-10:])
            outside = await client.ask("/boot/agent/vmlinuz", Range=f"bytes={len(KERNEL)}-")
            assert (outside.status, outside.body) == (416, b"")
            assert outside.headers["Content-Range"] == f"bytes */{len(KERNEL)}"
            several = await client.ask("/boot/agent/vmlinuz", Range="bytes=0-1,4-5")
            assert (several.status, several.body) == (200, KERNEL)
            tag = head.headers["Etag"]
            same = await client.ask("/boot/agent/vmlinuz", Range="bytes=5-6", If_Range=tag)
            assert (same.status, same.body) == (206, KERNEL[5:7])
            other = await client.ask("/boot/agent/vmlinuz", Range="bytes=5-6", If_Range='"other"')
            assert (other.status, other.body) == (200, KERNEL)
            assert (await client.ask("/boot/agent/vmlinuz", If_None_Match=tag)).status == 304
            assert (await client.ask("/boot/nothing")).status == 404
            assert (await client.ask("/boot/agent/initrd.img")).body == b""
            assert (await client.ask("/boot/agent/vmlinuz")).body == KERNEL

    run(story())


def test_a_rendered_file_has_its_exact_length_in_every_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            client, target = await room.connect(), f"/boot/grub/machine-{MAC}.cfg"
            whole = await client.ask(target)
            assert (whole.status, whole.headers["Content-Length"]) == (200, str(len(whole.body)))
            assert b"pc-07" in whole.body
            head = await client.ask(target, "HEAD")
            assert head.headers["Content-Length"] == str(len(whole.body))
            part = await client.ask(target, Range="bytes=3-9", If_Range=whole.headers["Etag"])
            assert (part.status, part.body) == (206, whole.body[3:10])

    run(story())


def test_questions_sent_ahead_are_answered_in_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            client = await room.connect()
            for _ in range(3):
                client.say("/boot/agent/vmlinuz")
                client.say(f"/boot/grub/machine-{MAC}.cfg")
            for _ in range(3):
                assert (await client.hear()).body == KERNEL
                assert b"pc-07" in (await client.hear()).body

    run(story())


def test_a_client_that_ends_with_each_file_gets_the_end_of_the_connection(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            old = await room.connect()
            old.writer.write(b"GET /boot/agent/vmlinuz HTTP/1.0\r\n\r\n")
            assert (await old.until_closed()).endswith(b"\r\n\r\n" + KERNEL)
            closing = await room.connect()
            closing.say("/boot/agent/vmlinuz", Connection="close")
            assert (await closing.until_closed()).endswith(b"\r\n\r\n" + KERNEL)

    run(story())


@pytest.mark.parametrize(
    "target",
    [
        "/boot/../keys/secret",
        "/boot/agent/../../keys/secret",
        "/boot/%2e%2e/keys/secret",
        "/boot/agent/%2e%2e/%2e%2e/keys/secret",
        "/boot/agent%2f..%2f..%2fkeys%2fsecret",
        "/boot/..%5ckeys%5csecret",
        "/boot/%252e%252e/keys/secret",
        "/boot//keys/secret",
        "/boot/%2fetc/passwd",
        "/boot//etc/passwd",
        "/boot/agent/vmlinuz%00",
        "/boot/agent/vmlinuz%00.cfg",
        "/boot/agent/vmlinuz%0a",
        "/boot/agent/vmlinuz%ff",
        "/boot/agent/vmlinuz%20",
        "/boot/agent/link",
        "/boot/" + "a" * 5000,
        "/boot/",
    ],
)
def test_nothing_outside_the_tree_is_read_and_all_such_answers_are_one(tmp_path: Path, target: str) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            (tmp_path / "agent" / "link").symlink_to(tmp_path / "keys" / "secret")
            client = await room.connect()
            for method in ("GET", "HEAD"):
                answer = await client.ask(target, method)
                assert answer.status == 404
                assert answer.body in (b'{"detail":"no such boot file"}', b"")
            assert (await client.ask("/boot/agent/vmlinuz")).body == KERNEL
            assert all(line.startswith("refused") for line in room.fetches.lines[:2])

    run(story())


def test_a_link_in_place_of_the_kernel_is_not_followed(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            (tmp_path / "agent" / "vmlinuz").unlink()
            (tmp_path / "agent" / "vmlinuz").symlink_to(tmp_path / "keys" / "secret")
            answer = await (await room.connect()).ask("/boot/agent/vmlinuz")
            assert (answer.status, answer.body) == (404, b'{"detail":"no such boot file"}')

    run(story())


def a_large_file(directory: Path) -> Path:
    """Sparse: 64 MB that take no space."""
    file = directory / "agent" / "initrd.img"
    with file.open("wb") as out:
        out.truncate(LARGE_BYTES)
    return file


def test_a_file_that_is_replaced_while_it_is_sent_arrives_as_it_was(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            file = a_large_file(tmp_path)
            client = await room.connect(receive_bytes=1 << 20)
            client.say("/boot/agent/initrd.img")
            await client.reader.readuntil(b"\r\n\r\n")
            (tmp_path / "new").write_bytes(b"\1" * 1000)
            (tmp_path / "new").replace(file)
            async with asyncio.timeout(WAIT_S):
                assert await client.reader.readexactly(LARGE_BYTES) == bytes(LARGE_BYTES)

    run(story())


def test_a_file_that_becomes_shorter_ends_the_connection_and_the_log_tells_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            file = a_large_file(tmp_path)
            client = await room.connect(receive_bytes=1 << 20)
            client.say("/boot/agent/initrd.img")
            await client.reader.readuntil(b"\r\n\r\n")
            with file.open("r+b") as out:
                out.truncate(LARGE_BYTES // 2)
            assert len(await client.until_closed()) < LARGE_BYTES
            assert room.fetches.lines[-1].endswith("part the file became shorter while it was sent")

    run(story())


def test_a_client_that_goes_away_ends_its_fetch_and_no_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_room(tmp_path) as room:
            a_large_file(tmp_path)
            leaver, stayer = await room.connect("127.0.0.2", 65536), await room.connect()
            leaver.say("/boot/agent/initrd.img")
            await leaver.reader.readuntil(b"\r\n\r\n")
            leaver.writer.transport.abort()
            async with asyncio.timeout(WAIT_S):
                await room.fetches.ended.wait()
            ended = f"ended 127.0.0.2 agent/initrd.img {LARGE_BYTES} part it closed the connection"
            assert room.fetches.lines[-1] == ended
            assert room.fetches.sent < LARGE_BYTES
            assert (await stayer.ask("/boot/agent/vmlinuz")).body == KERNEL

    run(story())


@pytest.mark.parametrize("target", ["/boot/agent/initrd.img", "/agent/v1/task"])
def test_a_client_that_takes_nothing_is_cut(tmp_path: Path, target: str) -> None:
    """A file waits in the kernel, answers to questions without end in this process: both have their time."""

    async def story() -> None:
        async with a_room(tmp_path, Limits(10, write_silence_s=0.5)) as room:
            a_large_file(tmp_path)
            client = await room.connect(receive_bytes=4096)
            client.writer.transport.pause_reading()
            if target.endswith("img"):
                client.say(target)
                async with asyncio.timeout(WAIT_S):
                    await room.fetches.ended.wait()
                assert "part it took nothing for" in room.fetches.lines[-1]
            else:
                with pytest.raises(ConnectionError):
                    async with asyncio.timeout(WAIT_S):
                        while True:
                            client.say(target)
                            await client.writer.drain()
            client.writer.transport.resume_reading()
            await client.until_closed()
            assert (await (await room.connect()).ask("/boot/agent/vmlinuz")).body == KERNEL

    run(story())


def test_many_slow_readers_take_no_memory_and_nobody_waits_for_them(tmp_path: Path) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    async def story() -> None:
        async with a_room(tmp_path) as room:
            a_large_file(tmp_path)
            client = await room.connect()
            assert (await client.ask("/boot/agent/vmlinuz")).body == KERNEL
            before = resident_bytes()
            slow = [await room.connect(f"127.0.1.{number}", 4096) for number in range(100)]
            for reader in slow:
                reader.writer.transport.pause_reading()
                reader.say("/boot/agent/initrd.img")
            async with asyncio.timeout(WAIT_S):
                while sum(line.startswith("started") for line in room.fetches.lines) < 101:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            for _ in range(5):
                assert (await client.ask("/boot/agent/vmlinuz")).body == KERNEL
            assert resident_bytes() - before < 16 << 20, "64 MB each would be 6.4 GB"

    run(story())


class SlowDisk:
    """Sends files, once the disk has turned; as sendfile of what is not in the page cache."""

    def __init__(self) -> None:
        self.asked, self.turned, self.done = threading.Event(), threading.Event(), threading.Event()
        self.read = b""
        """What stood at the first place that was to be sent, when the disk had turned."""

    def sendfile(self, sock: int, file: int, offset: int, count: int) -> int:
        self.asked.set()
        assert self.turned.wait(WAIT_S)
        self.read = self.read or os.pread(file, 4, offset)
        try:
            return os.sendfile(sock, file, offset, count)
        finally:
            self.done.set()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, WAIT_S)


def test_while_a_file_waits_for_the_disk_all_others_are_answered(tmp_path: Path) -> None:
    async def story() -> None:
        disk = SlowDisk()
        async with a_room(tmp_path, sendfile=disk.sendfile) as room:
            waits, goes_on = await room.connect(), await room.connect()
            waits.say("/boot/agent/vmlinuz")
            await until(disk.asked)
            assert b"pc-07" in (await goes_on.ask(f"/boot/grub/machine-{MAC}.cfg")).body
            assert not disk.turned.is_set()
            disk.turned.set()
            assert (await waits.hear()).body == KERNEL

    run(story())


def test_one_host_whose_files_wait_for_the_disk_leaves_threads_to_the_others(tmp_path: Path) -> None:
    async def story() -> None:
        disk = SlowDisk()

        def sendfile(sock: int, file: int, offset: int, count: int) -> int:
            is_cached = os.fstat(file).st_size == len(KERNEL)
            return (os.sendfile if is_cached else disk.sendfile)(sock, file, offset, count)

        async with a_room(tmp_path, sendfile=sendfile) as room:
            a_large_file(tmp_path)
            for _ in range(2 * THREADS):
                (await room.connect("127.0.0.2")).say("/boot/agent/initrd.img")
            async with asyncio.timeout(WAIT_S):
                while sum(line.startswith("started") for line in room.fetches.lines) < 2 * THREADS:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert (await (await room.connect()).ask("/boot/agent/vmlinuz")).body == KERNEL
            assert not disk.turned.is_set()
            disk.turned.set()

    run(story())


def test_a_fetch_that_ends_while_its_file_waits_for_the_disk_leaves_the_file_to_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that is closed too early may be another connection's by then."""
    monkeypatch.setattr("netboot.services.http.SHUTDOWN_S", 0)

    async def story() -> None:
        disk = SlowDisk()
        async with a_room(tmp_path, sendfile=disk.sendfile) as room:
            client = await room.connect()
            client.say("/boot/agent/vmlinuz", Range="bytes=8-")
            await until(disk.asked)
        assert room.fetches.lines[-1].endswith("part the appliance was stopped")
        disk.turned.set()
        await until(disk.done)
        assert disk.read == KERNEL[8:12]

    run(story())
