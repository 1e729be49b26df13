"""[S] Who may hold connections to an HTTP server, how many, and how long without asking for anything.

A stranger on the machines' network can open connections faster than machines do: each costs a file descriptor, and
without descriptors there is no TFTP, no database and no cast either. What is too much is closed at once.
"""

import asyncio
import contextlib
import resource
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from netboot.services.sendfile import DESCRIPTORS_EACH, FILE_MESSAGE, FileSender

MOST_AGENT_CONNECTIONS = 4096
MOST_OTHER_CONNECTIONS = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one server."""

    connections: int = MOST_OTHER_CONNECTIONS
    per_peer: int | None = None
    """By address; None: one peer may take them all."""
    request_s: float = 20.0
    """A connection that has not sent a whole request's head so long after it began is closed."""
    body_silence_s: float = 60.0
    """One whose body stops so long, though we would read it, too."""
    write_silence_s: float = 60.0
    """One that takes nothing of an answer for so long, too."""


def raise_open_files() -> int:
    """Let this process open as many files as it may ever; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # forbidden: the old limit stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def agents_limits(open_files: int) -> Limits:
    """Of the machines' server: at most half of all descriptors, though each connection were sent a file."""
    return Limits(min(MOST_AGENT_CONNECTIONS, open_files // (2 * DESCRIPTORS_EACH)), per_peer=64)


def other_limits(open_files: int) -> Limits:
    """Of pages and commands: an eighth of all descriptors each; a reverse proxy may ask for many people."""
    return Limits(min(MOST_OTHER_CONNECTIONS, open_files // 8))


class Door:
    """Counts the connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.turned_away = 0
        self._peers: Counter[str] = Counter()

    def enter(self, peer: str) -> bool:
        """Whether one more connection of `peer` is let in; each that is must `leave`."""
        limits = self.limits
        full = self._peers.total() >= limits.connections
        if full or (peer and limits.per_peer is not None and self._peers[peer] >= limits.per_peer):
            self.turned_away += 1
            return False
        self._peers[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]


def guarded_protocol(door: Door, files: FileSender) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP/1.1 protocol behind a door. h11, because it keeps the spelling of header names."""

    class GuardedProtocol(H11Protocol):
        _peer: str | None = None
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            address = transport.get_extra_info("peername")
            peer = str(address[0]) if isinstance(address, tuple) else ""
            if not door.enter(peer):
                transport.abort()
                return
            self._peer = peer
            super().connection_made(transport)
            self.app = self._run_app
            if isinstance(address, tuple):  # whatever waits in this process or in the kernel (RFC 5482)
                silence_ms = int(door.limits.write_silence_s * 1000)
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silence_ms)
            self._set_deadline(door.limits.request_s)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            match self.conn.their_state:
                case h11.IDLE:  # a part of a head; more of it does not make the time longer
                    if self._deadline is None:
                        self._set_deadline(door.limits.request_s)
                case h11.SEND_BODY:
                    self._set_deadline(door.limits.body_silence_s)
                case _:
                    self._drop_deadline()

        async def _run_app(self, scope: Any, receive: Any, send: Any) -> None:
            """The app, which may send files: one request at a time, so the cycle is that of this request."""
            cycle = self.cycle

            async def send_anything(message: Any) -> None:
                if message["type"] == FILE_MESSAGE:
                    await files.send(cycle, message, door.limits.write_silence_s)
                else:
                    await send(message)

            scope["extensions"] = {FILE_MESSAGE: {}}
            await self.config.loaded_app(scope, receive, send_anything)

        def connection_lost(self, exc: Exception | None) -> None:
            self._drop_deadline()
            if self._peer is None:
                return
            door.leave(self._peer)
            super().connection_lost(exc)

        def _set_deadline(self, seconds: float) -> None:
            self._drop_deadline()
            if not self.transport.is_closing():
                self._deadline = self.loop.call_later(seconds, self._expire)

        def _drop_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._deadline = None
            if self.flow.read_paused:  # it is we who make it wait
                self._set_deadline(door.limits.body_silence_s)
            else:
                self.transport.abort()

    return GuardedProtocol
