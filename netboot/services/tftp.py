"""The TFTP server as the appliance sees it: a process of its own that serves, and asks here for every file.

The process (netboot.services.tftp_process) owns the packets. This side holds the request port, opens or renders what is
asked for and hands it over as a descriptor, hears how transfers end, and starts the process again when it breaks.
"""

import asyncio
import contextlib
import dataclasses
import inspect
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from netboot.errors import NetbootError, ServiceError
from netboot.model import Ignored
from netboot.services.counters import PacketCounters
from netboot.services.interface import Interface, bind_udp
from netboot.services.tftp_messages import Message, ProcessOptions, receive_message, send_message
from netboot.tftp.denial import FAILED, MODE_NOT_SERVED, NOT_SERVED, judge_mode, judge_text
from netboot.tftp.netascii import to_netascii
from netboot.tftp.reception import MAX_TRANSFERS
from netboot.tftp.transfer import TransferDeclined, TransferEvent, TransferFailed, TransferFinished

TFTP_PORT = 69
_HEADERS_BYTES = 32
"""IPv4, UDP and TFTP headers around a block."""
_END_WITHIN_S = 2.0
_START_WITHIN_S = 60.0
_ASK_EVERY_S = 5.0
ANSWER_WITHIN_S = 10.0
"""A process that says nothing for so long, when asked whether it is there, hangs."""
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_OUTCOMES: dict[str, type[TransferEvent]] = {
    kind.__name__: kind for kind in (TransferFinished, TransferFailed, TransferDeclined)
}

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

OnIgnored = Callable[[str, str, int], None]
"""Told (sender, reason, how often) of packets that started no transfer: for the boot log. Must not block."""


async def serve_tftp(
    interface: Interface,
    open_file: OpenFile,
    *,
    port: int = TFTP_PORT,
    max_transfers: int = MAX_TRANSFERS,
    counters: PacketCounters | None = None,
    on_transfer: OnTransfer | None = None,
    on_start: OnStart | None = None,
    on_ignored: OnIgnored | None = None,
    ready: asyncio.Event | None = None,
    answer_within_s: float = ANSWER_WITHIN_S,
) -> None:
    """Serve until cancelled; running transfers are told and ended. ServiceError before `ready` when it cannot start."""
    options = ProcessOptions(
        interface.name, str(interface.address), max(512, interface.mtu - _HEADERS_BYTES), max_transfers
    )
    counters = counters or PacketCounters()
    pause_s = _FIRST_PAUSE_S
    ready = ready or asyncio.Event()
    with _open_socket(interface, port) as requests:
        while True:
            started_s = asyncio.get_running_loop().time()
            server = _TftpServer(open_file, counters, on_transfer, on_start, on_ignored, ready, answer_within_s)
            try:
                cause = await server.run(requests, options)
            except OSError as error:
                cause = str(error)
            if not ready.is_set():
                raise ServiceError(f"the TFTP process cannot be started: {cause}; what it said stands in the log")
            counters.failed["process"] += 1
            if asyncio.get_running_loop().time() - started_s > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            _log.error("tftp process is started again", cause=cause, pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@dataclass(slots=True)
class _Asked:
    """A request whose file was asked for."""

    peer: str
    path: str
    size: int = -1


class _TftpServer:
    """One life of the process."""

    def __init__(
        self,
        open_file: OpenFile,
        counters: PacketCounters,
        on_transfer: OnTransfer | None,
        on_start: OnStart | None,
        on_ignored: OnIgnored | None,
        ready: asyncio.Event,
        answer_within_s: float,
    ) -> None:
        self._ready = ready
        self._answer_within_s = answer_within_s
        self._is_alive = asyncio.Event()
        """It answered the last question."""
        self._open_file = open_file
        self._counters = counters
        self._on_transfer = on_transfer
        self._on_start = on_start
        self._on_ignored = on_ignored
        self._asked: dict[int, _Asked] = {}

    async def run(self, requests: socket.socket, options: ProcessOptions) -> str:
        """Until the process ends by itself, or hangs: which of the two. OSError when it cannot be started."""
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        hangs = False
        with control:
            with theirs:
                process = await asyncio.to_thread(_start_process, theirs, requests, options)
            try:
                async with asyncio.TaskGroup() as group:
                    loop.add_reader(control, self._hear, control, group, ended)
                    watching = group.create_task(self._watch(control, ended))
                    try:
                        await ended.wait()
                    finally:
                        loop.remove_reader(control)
                        watching.cancel()
                    hangs = watching.done() and not watching.cancelled()
            finally:
                with contextlib.suppress(OSError):
                    control.shutdown(socket.SHUT_WR)
                try:
                    await _end_process(process, 0.0 if hangs else _END_WITHIN_S)
                finally:
                    self._hear_last_words(control)
                why = "the TFTP process ended" if ended.is_set() else "the appliance is shutting down"
                for asked in self._asked.values():
                    failed = TransferFailed(why, 0)
                    self._report(TransferReport(asked.peer, asked.path, asked.size, 0.0, failed))
        return "it did not answer any more" if hangs else f"it ended with {process.returncode}"

    async def _watch(self, control: socket.socket, ended: asyncio.Event) -> None:
        """Ask now and then whether it is there; returns when no answer comes."""
        within_s = _START_WITHIN_S
        while True:
            self._is_alive.clear()
            with contextlib.suppress(OSError, ServiceError):  # full, for want of a reader: then no answer comes either
                await _send(control, {"alive": True})
            try:
                async with asyncio.timeout(within_s):
                    await self._is_alive.wait()
            except TimeoutError:
                if not self._is_alive.is_set():  # else both came at once: it was we who had no time
                    ended.set()
                    return
            within_s = self._answer_within_s
            await asyncio.sleep(min(_ASK_EVERY_S, within_s))

    def _hear(self, control: socket.socket, group: asyncio.TaskGroup, ended: asyncio.Event) -> None:
        while True:
            try:
                received = receive_message(control)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                asyncio.get_running_loop().remove_reader(control)
                ended.set()
                return
            message = received[0]
            if "open" in message:
                asked = self._asked[message["open"]] = _Asked(message["peer"], message["path"])
                group.create_task(self._open(control, message["open"], asked, message["mode"]))
            else:
                self._take(message)

    def _hear_last_words(self, control: socket.socket) -> None:
        """How far the transfers came that its end cut, as much of it as there was room for."""
        with contextlib.suppress(OSError):
            while (received := receive_message(control)) is not None:
                if "open" not in received[0]:
                    self._take(received[0])

    def _take(self, message: Message) -> None:
        if "ready" in message:
            self._ready.set()
            _log.info("tftp serving")
        elif "alive" in message:
            self._is_alive.set()
        elif "started" in message:
            asked = self._asked[message["started"]]
            asked.size = message["size"]
            if self._on_start is not None:
                self._on_start(asked.peer, asked.path, asked.size)
        elif "ended" in message:
            ended = self._asked.pop(message["ended"], None)
            if ended is None:
                return  # reported when it could not be handed over
            outcome = _OUTCOMES[message["outcome"]](**message["fields"])
            report = TransferReport(
                ended.peer,
                ended.path,
                ended.size,
                message["seconds"],
                outcome,
                message["block_bytes"],
                message["blocks"],
            )
            self._report(report)
        else:
            self._counters.received += message["received"]
            self._counters.junk += message["junk"]
            self._counters.ignored.update(message["ignored"])
            self._counters.failed.update(message["failed"])
            for sender, reason, count in message["ignored_of"]:
                if self._on_ignored is not None:
                    self._on_ignored(sender, reason, count)

    async def _open(self, control: socket.socket, number: int, asked: _Asked, mode: str) -> None:
        """Answer one request for a file. Only cancelling gets out of it."""
        opened: tuple[int, bool] | Ignored
        outcome: Ignored | TransferFailed
        denial = NOT_SERVED
        try:
            if (unserved := judge_mode(mode)) is not None:
                opened, denial = unserved, MODE_NOT_SERVED
            else:
                opened = await self._open_content(asked, mode)
            if not isinstance(opened, Ignored):
                descriptor, shared = opened
                try:
                    await _send(control, {"number": number, "shared": shared}, (descriptor,))
                finally:
                    os.close(descriptor)
                return
            outcome = opened
        except Exception as error:  # a task's boundary: one transfer's failure never ends its service
            self._counters.failed["transfer"] += 1
            if isinstance(error, NetbootError):
                _log.warning("tftp request failed", peer=asked.peer, path=asked.path, cause=str(error))
            else:
                _log.exception("tftp request failed", peer=asked.peer, path=asked.path)
            outcome = TransferFailed(f"the appliance failed: {type(error).__name__}", 0)
            denial = FAILED
        if self._asked.pop(number, None) is not None:
            self._report(TransferReport(asked.peer, asked.path, -1, 0.0, outcome))
        with contextlib.suppress(OSError, ServiceError):
            await _send(control, {"number": number, "code": int(denial.code), "text": denial.text})

    async def _open_content(self, asked: _Asked, mode: str) -> tuple[int, bool] | Ignored:
        """A descriptor, which the caller closes, and whether the same file comes for others too."""
        answer = self._open_file(asked.path, asked.peer)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Ignored):
            return answer
        if isinstance(answer, Path):
            try:
                descriptor = _open_regular(answer)
            except OSError as error:
                return Ignored(f"file cannot be read: {answer}: {error.strerror or error}")
            if mode == "octet":
                return descriptor, True
            try:
                size = os.fstat(descriptor).st_size
                if (too_large := judge_text(size)) is not None:
                    return too_large
                answer = os.pread(descriptor, size, 0)
            finally:
                os.close(descriptor)
        return _in_memory(to_netascii(answer) if mode == "netascii" else answer), False

    def _report(self, report: TransferReport) -> None:
        match report.outcome:
            case Ignored(reason):
                self._counters.ignore(reason)
                _log.info("tftp refused", peer=report.peer, path=report.path, reason=reason)
            case TransferFailed(reason, done):
                self._counters.answered["failed"] += 1
                _log.info("tftp failed", peer=report.peer, path=report.path, reason=reason, bytes=done)
            case TransferDeclined(size, message):
                self._counters.answered["size told"] += 1
                _log.info("tftp size told", peer=report.peer, path=report.path, bytes=size, client=message)
            case TransferFinished(size, resent):
                self._counters.answered["finished"] += 1
                seconds = round(report.seconds, 3)
                _log.info("tftp sent", peer=report.peer, path=report.path, bytes=size, seconds=seconds, resent=resent)
        if self._on_transfer is not None:
            self._on_transfer(report)


async def _send(control: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    for _ in range(100):
        try:
            return send_message(control, message, descriptors)
        except BlockingIOError:
            await asyncio.sleep(0.02)
    raise ServiceError("the TFTP process takes no orders: it is stopped or has no time")


def _open_regular(path: Path) -> int:
    """A descriptor of a file. OSError when it is none; a symbolic link is none, a FIFO must not block us."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("tftp", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _start_process(control: socket.socket, requests: socket.socket, options: ProcessOptions) -> subprocess.Popen[bytes]:
    passed = (control.fileno(), requests.fileno())
    words = [*map(str, passed), json.dumps(dataclasses.asdict(options))]
    search = os.pathsep.join([*filter(None, sys.path), str(_PACKAGE_ROOT)])
    return subprocess.Popen(
        # -P: what happens to lie in the working directory must not be imported; -S: nor what packages hook in
        [sys.executable, "-P", "-S", "-m", "netboot.services.tftp_process", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=passed,
        env={**os.environ, "PYTHONPATH": search},
        # a Ctrl-C at the terminal is the appliance's to handle: the process ends with its connection
        process_group=0,
    )


async def _end_process(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Wait for it, and kill it when it does not end; also when we are cancelled."""
    try:
        await asyncio.to_thread(process.wait, within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)


def _open_socket(interface: Interface, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Bound to the address: no broadcast gets here, answers leave with the address that was asked.
        bind_udp(sock, interface, interface.address, port, "TFTP")
    except BaseException:
        sock.close()
        raise
    return sock
