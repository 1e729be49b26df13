"""The receiver of a cast, as its program sees it: a process of its own that hands over whole chunks.

The child (imager.transport.receive_process) owns sockets and the receiving loop, which no other Python code may slow.
It assembles chunks in slots of a shared memory ring; a slot is free again when the program has released its chunk.
While no slot is free, symbols of further chunks are dropped and asked for later. The child ends when this side's end
of their connection closes.
"""

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from imager.errors import CastError, GroupUnheard
from imager.multicast.events import Accepted, ChunkAssembled, DoneAcknowledged, ReceiveStatistics, SessionLost
from imager.multicast.memory import ReceiverMemory, divide_memory
from imager.transport.cast_address import check_address
from imager.transport.child import Child
from imager.wire.messages import CastAddress
from imager.wire.session import Holdup, symbol_bytes

MIN_SLOTS = 4


@dataclass(frozen=True, slots=True)
class ReceiveSetup:
    """What the child is told first."""

    address: CastAddress
    interface_address: str
    stored_lengths: tuple[int, ...]
    wanted: bytes | None
    slots: int
    slot_bytes: int
    socket_bytes: int
    sender_timeout_s: float


@dataclass(frozen=True, slots=True)
class Release:
    chunk: int
    ok: bool


@dataclass(frozen=True, slots=True)
class HeldUp:
    """What keeps the program from taking more."""

    by: Holdup


@dataclass(frozen=True, slots=True)
class SayDone:
    pass


@dataclass(frozen=True, slots=True)
class SayLeave:
    reason: str


ReceiveCommand = Release | HeldUp | SayDone | SayLeave


@dataclass(frozen=True, slots=True)
class AllReleased:
    """Every wanted chunk was released as good."""


ReceiveMessage = ChunkAssembled | Accepted | AllReleased | DoneAcknowledged | SessionLost | ReceiveStatistics


@dataclass(frozen=True, slots=True)
class ReceivedChunk:
    """A whole chunk, not yet checked against its hash."""

    index: int
    data: memoryview
    """Its stored bytes, in shared memory: valid until `release`."""


class PreparedReceiver:
    """A receiver's process that has started and waits to be told its session."""

    def __init__(self) -> None:
        self.ring = os.memfd_create("roomcast-ring", os.MFD_CLOEXEC)
        self.child = Child("imager.transport.receive_process", [self.ring])

    def close(self) -> None:
        """End the process; safe to repeat."""
        self.child.close()
        if self.ring >= 0:
            os.close(self.ring)
            self.ring = -1


class ReceiveProcess:
    """One receiving: start(), chunks() with a release() for each, done(), stop() always.

    One thread goes through chunks(); release() may be called from any.
    """

    def __init__(
        self,
        address: CastAddress,
        interface_address: str,
        stored_lengths: Sequence[int],
        wanted: bytes | None = None,
        memory: ReceiverMemory | None = None,
        sender_timeout_s: float = 60,
        prepared: PreparedReceiver | None = None,
    ) -> None:
        """`wanted`: bitmap of the chunks to receive, None: all. `memory` bounds the ring, which has at least
        MIN_SLOTS slots of the longest chunk; None: the default's division. A process that was `prepared` is taken over.
        Raises CastError for an address that cannot be.
        """
        check_address(address)
        longest = max(stored_lengths, default=1)
        size = symbol_bytes(address.packet_bytes)
        slot_bytes = -(-longest // size) * size
        memory = memory or divide_memory()
        slots = min(max(MIN_SLOTS, memory.ring_bytes // slot_bytes), max(MIN_SLOTS, len(stored_lengths)))
        self._setup = ReceiveSetup(
            address,
            interface_address,
            tuple(stored_lengths),
            wanted,
            slots,
            slot_bytes,
            memory.socket_bytes,
            sender_timeout_s,
        )
        self._prepared = prepared
        self._memory: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._sending = threading.Lock()
        self._statistics = ReceiveStatistics()
        self._said_done = False

    def start(self) -> None:
        """Start the process; it joins the session at once. Errors of its sockets come out of chunks()."""
        if self._prepared is None:
            self._prepared = PreparedReceiver()
        os.ftruncate(self._prepared.ring, self._setup.slots * self._setup.slot_bytes)
        self._memory = mmap.mmap(self._prepared.ring, 0)
        self._view = memoryview(self._memory)
        self._connection.send(self._setup)

    @property
    def _connection(self) -> Connection:
        assert self._prepared is not None, "start() first"
        return self._prepared.child.connection

    def chunks(self, ask_holdup: Callable[[], Holdup] = lambda: Holdup.NONE) -> Iterator[ReceivedChunk]:
        """Chunks as they become whole, in any order, until every wanted one was released with ok.

        A chunk released with ok False comes again. `ask_holdup` is asked ten times a second, for the sender to know why
        this receiver's memory is full. Raises CastError when the session cannot give the rest, GroupUnheard when it is
        multicast that does not arrive.
        """
        told = Holdup.NONE
        while True:
            match self._receive():
                case ChunkAssembled(chunk=index, slot=slot, length=length):
                    start = slot * self._setup.slot_bytes
                    yield ReceivedChunk(index, self._view[start : start + length])
                case AllReleased():
                    return
                case SessionLost(reason=reason, unheard=unheard):
                    raise GroupUnheard(reason) if unheard else CastError(reason)
                case ReceiveStatistics():
                    if (holdup := ask_holdup()) is not told:
                        told = holdup
                        self._send(HeldUp(holdup))
                case _:
                    pass

    def release(self, index: int, ok: bool) -> None:
        """Give a chunk's memory back. ok False: its bytes were wrong, it is asked for again."""
        self._send(Release(index, ok))

    def statistics(self) -> ReceiveStatistics:
        """The counters of at most 0.1 s ago; final after chunks() ended."""
        return self._statistics

    def done(self, wait_s: float = 2) -> None:
        """Tell the sender that everything holds, and wait for its answer up to `wait_s`.

        No answer is not an error: what was received stays true, and the sender finds out by its own timeout.
        """
        self._said_done = True
        self._send(SayDone())
        with contextlib.suppress(CastError):
            end = time.monotonic() + wait_s
            while (left := end - time.monotonic()) > 0 and self._connection.poll(left):
                if isinstance(self._receive(), DoneAcknowledged | SessionLost):
                    return

    def stop(self, reason: str = "the receiver was stopped") -> None:
        """End the process; when not done, the sender is told `reason`. Views of chunks become invalid. Safe to
        repeat.
        """
        if self._prepared is None:
            return
        if not self._said_done and self._memory is not None:
            self._send(SayLeave(reason))
        self._prepared.close()
        self._prepared = None
        self._view.release()
        if self._memory is not None:
            with contextlib.suppress(BufferError):  # a chunk's view is still held: freed with it
                self._memory.close()
            self._memory = None

    def _receive(self) -> ReceiveMessage:
        try:
            message: ReceiveMessage = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise CastError("the receiving process ended unexpectedly; see its last lines above") from error
        if isinstance(message, ReceiveStatistics):
            self._statistics = message
        return message

    def _send(self, command: ReceiveCommand) -> None:
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionError):  # its end is told by chunks()
            self._connection.send(command)
