"""[S] Files by HTTP from the page cache to the socket: uvicorn gains the ASGI extension `http.response.zerocopysend`.

A slow reader costs descriptors and no memory of ours: the kernel holds what is on its way. Sendfile waits for the
disk when the page cache lacks a file, so threads call it: the event loop, with DHCP on it, never waits for a disk.
"""

import asyncio
import contextlib
import io
import os
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from netboot.errors import ServiceError
from netboot.services.file_threads import FileThreads

FILE_MESSAGE = "http.response.zerocopysend"
"""The message's type, and the extension's name in a scope: `file`, `offset`, `count`."""

PATIENCE_MS = 20
"""A thread waits so long for a socket that is full; then the event loop does."""
THREADS = 16
"""Of a server: so many files may wait for the disk before other files wait too."""
THREADS_EACH = 8
"""At most, for the files of one client: its others wait their turn."""
DESCRIPTORS_EACH = 5
"""Of a connection that gets a file, at most: its socket, the event loop's copy of it, the file, a thread's two."""

SendFile = Callable[[int, int, int, int], int]
"""As os.sendfile to a socket that does not block: to, from, offset, bytes at most; returns how many went."""


class PeerStopped(ServiceError):
    """The other end went away, or takes nothing any more; the connection is closed."""


class _Span:
    """As long as the bytes that h11 shall count as sent."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class FileSender:
    """Sends the files of one server. Belongs to its event loop; whoever makes one closes it."""

    def __init__(self, sendfile: SendFile = os.sendfile) -> None:
        self._sendfile = sendfile
        self._threads = FileThreads(THREADS, THREADS_EACH, "http-file")

    def close(self) -> None:
        """When no answer is under way any more. A thread that waits for the disk is not waited for, now or at exit."""
        self._threads.close()

    async def send(self, cycle: RequestResponseCycle, message: Any, silence_s: float) -> None:
        """Send `count` bytes from `offset` of an open file as part of an answer whose Content-Length has been told.

        Raises PeerStopped when the connection ended or the peer took nothing for `silence_s`; the file's OSError when
        it cannot be read. The answer must end with an `http.response.body`, as any other. May be cancelled; the file
        may be closed then as always.
        """
        try:
            await self._send(cycle, message["file"], message["offset"], message["count"], silence_s)
        except TimeoutError as error:
            _abort(cycle)
            raise PeerStopped(f"it took nothing for {silence_s:.0f} s") from error
        except ConnectionError as error:
            _abort(cycle)
            raise PeerStopped("it closed the connection") from error
        except BaseException:
            _abort(cycle)
            raise

    async def _send(
        self, cycle: RequestResponseCycle, file: io.FileIO, offset: int, count: int, silence_s: float
    ) -> None:
        transport = cycle.transport
        transport.set_write_buffer_limits(high=0)
        if cycle.flow.write_paused and not cycle.disconnected:
            async with asyncio.timeout(silence_s):
                await cycle.flow.drain()  # what was said before leaves first
        if cycle.disconnected or transport.is_closing():
            raise ConnectionError
        cycle.conn.send_with_data_passthrough(h11.Data(data=cast(Any, _Span(count))))
        client = (cycle.scope["client"] or [""])[0]
        # A descriptor of our own, because the event loop waits for one on behalf of one owner.
        with transport.get_extra_info("socket").dup() as sock:
            while count:
                sent = await self._in_thread(client, sock, file, offset, count)
                offset += sent
                count -= sent
                if count:
                    await _until_writable(sock, silence_s)
                if cycle.disconnected:
                    raise ConnectionError

    async def _in_thread(self, client: str, sock: socket.socket, file: io.FileIO, offset: int, count: int) -> int:
        """Sends on descriptors of its own: who is cancelled here closes his while the thread goes on."""
        with contextlib.ExitStack() as opened:
            to = os.dup(sock.fileno())
            opened.callback(os.close, to)
            source = os.dup(file.fileno())
            opened.callback(os.close, source)
            sending = self._threads.submit(client, partial(_push, self._sendfile, to, source, offset, count))
            threads_own = opened.pop_all()
        sending.add_done_callback(lambda _: threads_own.close())
        return await asyncio.wrap_future(sending)


def _push(sendfile: SendFile, sock: int, file: int, offset: int, count: int) -> int:
    """Send until all is gone or the socket stays full; returns how many bytes went."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    left = count
    while left:
        try:
            sent = sendfile(sock, file, offset + count - left, left)
        except BlockingIOError:
            if not poll.poll(PATIENCE_MS):
                break
            continue
        if not sent:
            raise PeerStopped("the file became shorter while it was sent")
        left -= sent
    return count - left


async def _until_writable(sock: socket.socket, silence_s: float) -> None:
    loop = asyncio.get_running_loop()
    writable = loop.create_future()
    loop.add_writer(sock, _wake, writable)
    try:
        async with asyncio.timeout(silence_s):
            await writable
    finally:
        loop.remove_writer(sock)


def _wake(writable: asyncio.Future[None]) -> None:
    if not writable.done():
        writable.set_result(None)


def _abort(cycle: RequestResponseCycle) -> None:
    """The answer cannot be finished: the client must not take what it has for the whole."""
    cycle.disconnected = True
    cycle.transport.abort()
