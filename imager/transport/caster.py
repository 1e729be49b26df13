"""The sender of a cast, as its program sees it: a process of its own that takes commands and gives events.

The child (imager.transport.send_process) owns sockets and the sending loop; this side only starts it and talks to it.
The child ends by itself when this side's end of their connection closes, so a killed program leaves no sender behind.
"""

import contextlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from imager.errors import CastError
from imager.multicast.events import SenderEvent, SenderStatistics, SessionEnded
from imager.transport.child import Child

_ENDED_UNEXPECTEDLY = "the sending process ended unexpectedly; its last lines are on standard error"


class ChunkSource(Protocol):
    """The chunks of a cast. It is pickled into the sender's process, so it opens its files there, at the first read."""

    @property
    def stored_lengths(self) -> Sequence[int]:
        """Bytes of each chunk, as sent; fixed for the session."""

    def read(self, index: int) -> bytes | memoryview:
        """The bytes of one chunk, valid until the next read. An ImagerError or OSError ends the session with
        its text.
        """


@dataclass(frozen=True, slots=True)
class SenderAddress:
    """Where a session's packets go, and from where."""

    session: int
    """32-bit number in every packet."""
    group: str
    """IPv4 multicast group."""
    data_port: int
    interface_address: str
    """IPv4 address of the interface that sends; NACK and STATUS come to it."""
    control_port: int = 0
    """0: any free port, told by `CastProcess.control_port`."""


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """How to send."""

    max_bitrate_bps: int = 0
    """Bits of Ethernet frames a second; 0: no limit of the operator's."""
    silence_timeout_s: float = 30
    """A receiver that says nothing for so long is failed."""
    ttl: int = 1
    """Routers that the packets may pass, and one."""


@dataclass(frozen=True, slots=True)
class SenderSetup:
    """What the child is told first."""

    source: ChunkSource
    address: SenderAddress
    options: SenderOptions
    expected: tuple[int, ...]
    wanted: bytes | None


@dataclass(frozen=True, slots=True)
class SenderReady:
    """The child's first message."""

    control_port: int


@dataclass(frozen=True, slots=True)
class Admit:
    receiver: int
    wanted: bytes | None


@dataclass(frozen=True, slots=True)
class Begin:
    pass


@dataclass(frozen=True, slots=True)
class Remove:
    receiver: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    pass


SenderCommand = Admit | Begin | Remove | Stop


class CastProcess:
    """One sending. start(), begin() when those expected have joined, events() until SessionEnded, stop() always.

    Not for several threads. None of its methods waits, except start (for the child's sockets, below a second) and stop.
    """

    def __init__(
        self,
        source: ChunkSource,
        address: SenderAddress,
        options: SenderOptions | None = None,
        expected: Sequence[int] = (),
        wanted: bytes | None = None,
    ) -> None:
        """`expected`: receivers (0..65535) that may join; `wanted`: bitmap of the chunks in the first pass, None: all.

        `source` is pickled here, so a source that cannot travel is found at once.
        """
        self._setup = pickle.dumps(
            SenderSetup(source, address, options or SenderOptions(), tuple(expected), wanted), pickle.HIGHEST_PROTOCOL
        )
        self._child: Child | None = None
        self._ended = False
        self.control_port = address.control_port
        """UDP port that receivers answer to; known after start()."""

    def start(self) -> None:
        """Start the process and open its sockets. Raises CastError with the reason when that fails."""
        self.prepare()
        self.wait_ready()

    def prepare(self) -> None:
        """The first half of start(): the child comes up while the caller does something else."""
        self._child = Child("imager.transport.send_process")
        self._child.connection.send_bytes(self._setup)

    def wait_ready(self) -> None:
        """The second half of start()."""
        try:
            ready = self._connection.recv()
        except (EOFError, ConnectionError):
            ready = SessionEnded(SenderStatistics(), _ENDED_UNEXPECTEDLY)
        if isinstance(ready, SessionEnded):
            self.stop()
            raise CastError(ready.error)
        assert isinstance(ready, SenderReady)
        self.control_port = ready.control_port

    @property
    def _connection(self) -> Connection:
        assert self._child is not None, "start() first"
        return self._child.connection

    def fileno(self) -> int:
        """Readable when events() has something new: for add_reader or a selector."""
        return self._connection.fileno()

    def events(self, wait_s: float = 0) -> list[SenderEvent]:
        """What happened since the last call; waits up to `wait_s` for the first. SessionEnded is the last ever."""
        found: list[SenderEvent] = []
        try:
            while not self._ended and self._connection.poll(0 if found else wait_s):
                event = self._connection.recv()
                self._ended = isinstance(event, SessionEnded)
                found.append(event)
        except (EOFError, ConnectionError):
            self._ended = True
            found.append(SessionEnded(SenderStatistics(), _ENDED_UNEXPECTEDLY))
        return found

    def admit(self, receiver: int, wanted: bytes | None = None) -> None:
        """Let a receiver join, now or again; the chunks of its bitmap (None: all) are sent too if they were not yet."""
        self._command(Admit(receiver, wanted))

    def begin(self) -> None:
        """Start the first pass. The session ends by itself when every admitted receiver is done or failed."""
        self._command(Begin())

    def remove(self, receiver: int, reason: str) -> None:
        """Fail a receiver: nobody waits for it any longer."""
        self._command(Remove(receiver, reason))

    def stop(self) -> None:
        """End the session and the process; safe to repeat."""
        if self._child is not None:
            self._command(Stop())
            self._child.close()
            self._child = None

    def _command(self, command: SenderCommand) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # it ended by itself: events() tells
            self._connection.send(command)
