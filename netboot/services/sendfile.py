"""[S] Files by HTTP from the page cache to the socket: uvicorn gains the ASGI extension `http.response.zerocopysend`.

A slow reader costs one descriptor and no memory of ours: the kernel holds what is on its way.
"""

import asyncio
import io
import os
import socket
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from netboot.errors import ServiceError

FILE_MESSAGE = "http.response.zerocopysend"
"""The message's type, and the extension's name in a scope: `file`, `offset`, `count`."""


class PeerStopped(ServiceError):
    """The other end went away, or takes nothing any more; the connection is closed."""


class _Span:
    """As long as the bytes that h11 shall count as sent."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


async def send_file(cycle: RequestResponseCycle, message: Any, silence_s: float) -> None:
    """Send `count` bytes from `offset` of an open file as part of an answer whose Content-Length has been told.

    Raises PeerStopped when the connection ended or the peer took nothing for `silence_s`; the file's OSError when it
    cannot be read. The answer must end with an `http.response.body`, as any other.
    """
    try:
        await _send(cycle, message["file"], message["offset"], message["count"], silence_s)
    except TimeoutError as error:
        _abort(cycle)
        raise PeerStopped(f"it took nothing for {silence_s:.0f} s") from error
    except ConnectionError as error:
        _abort(cycle)
        raise PeerStopped("it closed the connection") from error
    except BaseException:
        _abort(cycle)
        raise
    await asyncio.sleep(0)


async def _send(cycle: RequestResponseCycle, file: io.FileIO, offset: int, count: int, silence_s: float) -> None:
    transport = cycle.transport
    transport.set_write_buffer_limits(high=0)
    if cycle.flow.write_paused and not cycle.disconnected:
        async with asyncio.timeout(silence_s):
            await cycle.flow.drain()  # what was said before leaves first
    if cycle.disconnected or transport.is_closing():
        raise ConnectionError
    cycle.conn.send_with_data_passthrough(h11.Data(data=cast(Any, _Span(count))))
    # A descriptor of our own, because the event loop waits for one on behalf of one owner.
    with transport.get_extra_info("socket").dup() as sock:
        while count:
            try:
                sent = os.sendfile(sock.fileno(), file.fileno(), offset, count)
            except BlockingIOError:
                await _until_writable(sock, silence_s)
                if cycle.disconnected:
                    raise ConnectionError from None
                continue
            if not sent:
                raise PeerStopped("the file became shorter while it was sent")
            offset += sent
            count -= sent


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
