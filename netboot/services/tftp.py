"""The sockets of the TFTP server: port 69 for requests, a socket for each transfer. Takes no decision of the protocol.

Each transfer is a task; what goes wrong in one ends that one. Read only: a write request gets an error.
"""

import asyncio
import contextlib
import inspect
import os
import socket
import stat
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from netboot.errors import NetbootError, WireError
from netboot.model import Ignored
from netboot.services.counters import PacketCounters
from netboot.services.interface import Interface, bind_udp
from netboot.tftp.netascii import to_netascii
from netboot.tftp.options import Limits, negotiate
from netboot.tftp.transfer import Address, ReadTransfer, TransferEvent, TransferFailed, TransferFinished
from netboot.wire.tftp import Error, ErrorCode, ReadRequest, WriteRequest, build_error, parse_tftp

TFTP_PORT = 69
MAX_TRANSFERS = 512
MAX_TRANSFERS_PER_PEER = 32
MAX_NETASCII_BYTES = 4 * 1024 * 1024
"""Text is converted in memory as a whole; nothing that boots is text of more than this."""
_MAX_REQUEST_BYTES = 2048
_MAX_PER_WAKE = 32
_SEND_BUFFER_BYTES = 1 << 20
_HEADERS_BYTES = 32
"""IPv4, UDP and TFTP headers around a block."""

_log = structlog.get_logger(__name__)

FileAnswer = bytes | Path | Ignored


class OpenFile(Protocol):
    """Gives the content of a path, or the reason why the peer does not get it. May be a coroutine function."""

    def __call__(self, path: str, peer: str) -> FileAnswer | Awaitable[FileAnswer]: ...


@dataclass(frozen=True, slots=True)
class TransferReport:
    """One transfer that came to its end, or that was refused."""

    peer: str
    path: str
    size: int
    """-1 when refused."""
    seconds: float
    outcome: TransferEvent | Ignored
    block_bytes: int = 0
    """0 when refused, or when it failed before its options were agreed."""
    blocks_acknowledged: int = 0
    """How far the client came: the highest block that it acknowledged."""


OnStart = Callable[[str, str, int], None]
"""Told (peer, path, size) when a file was opened and its first packet is about to leave. Must not block."""

OnTransfer = Callable[[TransferReport], None]
"""Told of every transfer's end: for the boot log. Must not block."""


class BytesContent:
    """A rendered file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        pass


class FileContent:
    """A file on disk, held open. OSError when it is none."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block us
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{path} is not a regular file")
        except OSError:
            os.close(self._descriptor)
            raise
        self.size = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)


async def serve_tftp(
    interface: Interface,
    open_file: OpenFile,
    *,
    port: int = TFTP_PORT,
    limits: Limits | None = None,
    max_transfers: int = MAX_TRANSFERS,
    counters: PacketCounters | None = None,
    on_transfer: OnTransfer | None = None,
    on_start: OnStart | None = None,
    ready: asyncio.Event | None = None,
) -> None:
    """Serve until cancelled; running transfers are told and ended. ServiceError before `ready` when it cannot start."""
    if limits is None:
        limits = Limits(block_bytes=max(512, interface.mtu - _HEADERS_BYTES))
    server = _TftpServer(
        interface, open_file, limits, max_transfers, counters or PacketCounters(), on_transfer, on_start
    )
    sock = _open_socket(interface, port)
    try:
        if ready is not None:
            ready.set()
        _log.info("tftp serving", interface=interface.name, port=port)
        async with asyncio.TaskGroup() as group:
            await server.receive_requests(sock, group)
    finally:
        sock.close()


class _TftpServer:
    def __init__(
        self,
        interface: Interface,
        open_file: OpenFile,
        limits: Limits,
        max_transfers: int,
        counters: PacketCounters,
        on_transfer: OnTransfer | None,
        on_start: OnStart | None,
    ) -> None:
        self._interface = interface
        self._open_file = open_file
        self._limits = limits
        self._max_transfers = max_transfers
        self._counters = counters
        self._on_transfer = on_transfer
        self._on_start = on_start
        self._running: set[Address] = set()
        self._running_of: Counter[str] = Counter()

    async def receive_requests(self, sock: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data, source = await loop.sock_recvfrom(sock, _MAX_REQUEST_BYTES)
            except OSError as error:  # an ICMP error of an earlier answer, or the interface went down
                self._counters.failed[f"receive: {error.strerror}"] += 1
                await asyncio.sleep(0)
                continue
            self._counters.received += 1
            peer: Address = (source[0], source[1])
            try:
                packet = parse_tftp(data)
            except WireError as error:
                self._counters.junk += 1
                _log.debug("tftp junk", peer=peer[0], reason=str(error))
                continue
            if isinstance(packet, WriteRequest):
                self._refuse(sock, peer, ErrorCode.ACCESS_VIOLATION, "this server is read only")
                self._counters.ignore("write request")
            elif isinstance(packet, Error):
                self._counters.ignore("error to the request port")
            elif not isinstance(packet, ReadRequest):
                self._refuse(sock, peer, ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer")
                self._counters.ignore("no request")
            elif peer in self._running:
                self._counters.ignore("repeated request")  # the transfer that runs sends its first packet again itself
            elif len(self._running) >= self._max_transfers or self._running_of[peer[0]] >= MAX_TRANSFERS_PER_PEER:
                self._counters.ignore("too many transfers")  # no answer: the client asks again after its timeout
            else:
                self._running.add(peer)
                self._running_of[peer[0]] += 1
                group.create_task(self._serve(sock, packet, peer))

    async def _serve(self, request_socket: socket.socket, request: ReadRequest, peer: Address) -> None:
        """One request from its start to its end. Only cancelling gets out of it."""
        started_s = time.monotonic()
        size = -1
        transfer: ReadTransfer | None = None
        outcome: TransferEvent | Ignored
        try:
            content = await self._open_content(request, peer)
            if isinstance(content, Ignored):
                code = ErrorCode.ILLEGAL_OPERATION if request.mode == "mail" else ErrorCode.FILE_NOT_FOUND
                self._refuse(request_socket, peer, code, "not served: the appliance's log says why")
                outcome = content
            else:
                with contextlib.closing(content):
                    size = content.size
                    terms = negotiate(request.options, size, self._limits)
                    transfer = ReadTransfer(peer, content, terms, time.monotonic())
                    if self._on_start is not None:
                        self._on_start(peer[0], request.path, size)
                    outcome = await self._transfer(transfer)
        except Exception as error:  # a task's boundary: one transfer's failure never ends its service
            self._counters.failed["transfer"] += 1
            self._refuse(request_socket, peer, ErrorCode.NOT_DEFINED, "the appliance failed: its log says why")
            if isinstance(error, NetbootError):
                _log.warning("tftp request failed", peer=peer[0], path=request.path, cause=str(error))
            else:
                _log.exception("tftp request failed", peer=peer[0], path=request.path)
            outcome = TransferFailed(f"the appliance failed: {type(error).__name__}", 0)
        finally:
            self._running.discard(peer)
            self._running_of[peer[0]] -= 1
            if not self._running_of[peer[0]]:
                del self._running_of[peer[0]]
        seconds = time.monotonic() - started_s
        block_bytes = transfer.block_bytes if transfer else 0
        acknowledged = transfer.blocks_acknowledged if transfer else 0
        self._report(TransferReport(peer[0], request.path, size, seconds, outcome, block_bytes, acknowledged))

    def _report(self, report: TransferReport) -> None:
        match report.outcome:
            case Ignored(reason):
                self._counters.ignore(reason)
                _log.info("tftp refused", peer=report.peer, path=report.path, reason=reason)
            case TransferFailed(reason, done):
                self._counters.answered["failed"] += 1
                _log.info("tftp failed", peer=report.peer, path=report.path, reason=reason, bytes=done)
            case TransferFinished(size, resent):
                self._counters.answered["finished"] += 1
                seconds = round(report.seconds, 3)
                _log.info("tftp sent", peer=report.peer, path=report.path, bytes=size, seconds=seconds, resent=resent)
        if self._on_transfer is not None:
            self._on_transfer(report)

    async def _open_content(self, request: ReadRequest, peer: Address) -> BytesContent | FileContent | Ignored:
        if request.mode not in ("octet", "netascii"):
            return Ignored(f"mode is not served: {request.mode!r}")
        answer = self._open_file(request.path, peer[0])
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Ignored):
            return answer
        content: BytesContent | FileContent
        if isinstance(answer, Path):
            try:
                content = FileContent(answer)
            except OSError as error:
                return Ignored(f"file cannot be read: {answer}: {error.strerror or error}")
        else:
            content = BytesContent(answer)
        if request.mode == "netascii":
            with contextlib.closing(content):
                if content.size > MAX_NETASCII_BYTES:
                    return Ignored(f"too large for netascii: {content.size} bytes")
                return BytesContent(to_netascii(content.read(0, content.size)))
        return content

    async def _transfer(self, transfer: ReadTransfer) -> TransferEvent:
        sock = _open_socket(self._interface, 0)
        try:
            endpoint = _Endpoint(sock, transfer)
            outcome = await endpoint.run()
        finally:
            sock.close()
        for reason, count in transfer.ignored.items():
            self._counters.ignored[reason] += count
        return outcome

    def _refuse(self, sock: socket.socket, peer: Address, code: ErrorCode, message: str) -> None:
        try:
            sock.sendto(build_error(code, message), peer)
        except OSError as error:
            self._counters.failed[f"send: {error.strerror}"] += 1


class _Endpoint:
    """Drives one transfer on its socket. The socket is not connected: strangers must get error 5, not an ICMP error."""

    def __init__(self, sock: socket.socket, transfer: ReadTransfer) -> None:
        self._sock = sock
        self._transfer = transfer
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[TransferEvent] = self._loop.create_future()
        self._waiting: deque[tuple[bytes, Address]] = deque()
        """Datagrams that the socket had no room for: at most a window and some answers."""
        assert abs(self._loop.time() - time.monotonic()) < 1, "asyncio's clock is time.monotonic"
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> TransferEvent:
        self._loop.add_reader(self._sock, self._guarded, self._read)
        try:
            self._guarded(self._advance)
            return await self._over
        except asyncio.CancelledError:
            self._transfer.abort("the appliance is shutting down")
            for data, destination in self._transfer.datagrams_to_send(time.monotonic()):
                with contextlib.suppress(OSError):
                    self._sock.sendto(data, destination)
            raise
        finally:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            if self._timer is not None:
                self._timer.cancel()

    def _guarded(self, step: Callable[[], None]) -> None:
        """What a callback raises belongs to the task that waits, not to the event loop."""
        try:
            step()
        except Exception as error:
            if not self._over.done():
                self._over.set_exception(error)

    def _read(self) -> None:
        for _ in range(_MAX_PER_WAKE):
            try:
                data, source = self._sock.recvfrom(_MAX_REQUEST_BYTES)
            except BlockingIOError:
                break
            except OSError:
                break  # an ICMP error; the client's silence will be noticed by the timer
            self._transfer.receive_datagram(data, (source[0], source[1]), time.monotonic())
        self._advance()

    def _time_out(self) -> None:
        self._timer = None
        self._transfer.handle_timeout(time.monotonic())
        self._advance()

    def _advance(self) -> None:
        outgoing = self._transfer.datagrams_to_send(time.monotonic())
        if self._waiting:
            if outgoing:
                self._waiting = deque(outgoing)  # a newer window replaces what an older one still had to send
        else:
            self._send(deque(outgoing))
        for event in self._transfer.events():
            if not self._over.done():
                self._over.set_result(event)
        deadline_s = self._transfer.next_timeout()
        if deadline_s is None:
            return
        if self._timer is not None and self._timer.when() > deadline_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            # Not moved later at every packet: it fires early at times, finds that it is not yet due and is set again.
            self._timer = self._loop.call_at(deadline_s, self._guarded, self._time_out)

    def _send(self, outgoing: deque[tuple[bytes, Address]]) -> None:
        while outgoing:
            data, destination = outgoing[0]
            try:
                self._sock.sendto(data, destination)
            except BlockingIOError:
                self._waiting = outgoing
                self._loop.add_writer(self._sock, self._guarded, self._send_waiting)
                return
            except OSError:
                pass  # unreachable for now: as good as lost on the way, the core sends it again or gives up
            outgoing.popleft()

    def _send_waiting(self) -> None:
        self._loop.remove_writer(self._sock)
        outgoing, self._waiting = self._waiting, deque()
        self._send(outgoing)


def _open_socket(interface: Interface, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        # Bound to the address: no broadcast gets here, answers leave with the address that was asked.
        bind_udp(sock, interface, interface.address, port, "TFTP")
    except BaseException:
        sock.close()
        raise
    return sock
