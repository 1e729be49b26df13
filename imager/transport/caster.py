"""The sender of a cast, as its program sees it: a process of its own that takes commands and gives events.

The child (imager.transport.send_process) owns sockets and the sending loop; this side only starts it and talks to it.
The child ends by itself when this side's end of their connection closes, so a killed program leaves no sender behind.
"""

import contextlib
import pickle
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol

from imager.errors import CastError
from imager.multicast.events import SenderEvent, SenderStatistics, SessionEnded
from imager.transport.child import Child
from imager.wire.groups import without_interface
from imager.wire.messages import CastAddress
from imager.wire.session import KEY_BYTES, MAX_RECEIVER, PACKET_BYTES, PACKET_BYTES_RANGE, SlowPolicy

_ENDED_UNEXPECTEDLY = "the sending process ended unexpectedly; its last lines are on standard error"


class ChunkSource(Protocol):
    """The chunks of a cast. It is pickled into the sender's process, so it opens its files there, at the first read."""

    @property
    def stored_lengths(self) -> Sequence[int]:
        """Bytes of each chunk, as sent; fixed for the session."""

    def read_into(self, index: int, out: memoryview) -> None:
        """The bytes of one chunk, into memory of its length. An ImagerError, OSError or ValueError ends the session
        with its text.
        """


@dataclass(frozen=True, slots=True)
class SenderAddress:
    """Where a session's packets go, and from where."""

    session: int
    """32-bit number in every packet, chosen by chance for each cast."""
    group: str
    """Multicast group."""
    data_port: int
    interface_address: str
    """Of the interface that sends, as interfaces.address_for gives it; NACK and STATUS come to it."""
    control_port: int = 0
    """0: any free port, told by `CastProcess.control_port`."""
    packet_bytes: int = PACKET_BYTES
    """UDP payload of every packet to the group, in PACKET_BYTES_RANGE."""


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """How to send."""

    max_bitrate_bps: int = 0
    """Bits of Ethernet frames a second; 0: no limit of the operator's."""
    silence_timeout_s: float = 30
    """A receiver that says nothing for so long is failed."""
    ttl: int = 1
    """Routers that the packets may pass, and one."""
    fec_share: float = 0.0
    """Repair symbols that are sent unasked, as a share of the source's, in 0..MAX_FEC_SHARE."""
    slow: SlowPolicy = SlowPolicy.WAIT
    floor_bps: int = 0
    """What a receiver must take in not to be slow; 0: nearly what the others take."""


@dataclass(frozen=True, slots=True)
class SenderSetup:
    """What the child is told first."""

    source: ChunkSource
    address: SenderAddress
    options: SenderOptions
    wanted: bytes | None
    is_held: bool
    cast_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SenderReady:
    """The child's first message."""

    control_port: int


@dataclass(frozen=True, slots=True)
class Admit:
    receiver: int
    control_key: bytes = field(repr=False)
    wanted: bytes | None


@dataclass(frozen=True, slots=True)
class Begin:
    pass


@dataclass(frozen=True, slots=True)
class Remove:
    receiver: int
    reason: str


@dataclass(frozen=True, slots=True)
class Want:
    wanted: bytes


@dataclass(frozen=True, slots=True)
class Limit:
    max_bitrate_bps: int


@dataclass(frozen=True, slots=True)
class LetEnd:
    pass


@dataclass(frozen=True, slots=True)
class Stop:
    pass


SenderCommand = Admit | Want | Begin | Remove | Limit | LetEnd | Stop


class CastProcess:
    """One cast. start(), admit() each receiver, begin(), events() until SessionEnded, stop() always.

    Its keys live as long as it: another process is another cast, whose receivers are admitted anew. Not for several
    threads. None of its methods waits, except start (for the child's sockets, below a second) and stop.
    """

    def __init__(
        self,
        source: ChunkSource,
        address: SenderAddress,
        options: SenderOptions | None = None,
        wanted: bytes | None = None,
        is_held: bool = False,
    ) -> None:
        """`wanted`: bitmap of the chunks in the first pass beside those of the admitted, None: all. `is_held`: it does
        not end by itself before let_end(). Raises ValueError for a packet length that is out of its range.

        `source` is pickled here, so a source that cannot travel is found at once.
        """
        if address.packet_bytes not in PACKET_BYTES_RANGE:
            raise ValueError(f"packets of {address.packet_bytes} bytes; {PACKET_BYTES_RANGE} is possible")
        self._cast_key = secrets.token_bytes(KEY_BYTES)
        self._setup = pickle.dumps(
            SenderSetup(source, address, options or SenderOptions(), wanted, is_held, self._cast_key),
            pickle.HIGHEST_PROTOCOL,
        )
        self._address = address
        self._admitted = 0
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
            ready = SessionEnded(SenderStatistics(), _ENDED_UNEXPECTEDLY, died=True)
        if isinstance(ready, SessionEnded):
            self.stop()
            raise CastError(ready.error)
        assert isinstance(ready, SenderReady)
        self.control_port = ready.control_port

    @property
    def session(self) -> int:
        """The number in every packet."""
        return self._address.session

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
            found.append(SessionEnded(SenderStatistics(), _ENDED_UNEXPECTEDLY, died=True))
        return found

    @property
    def is_full(self) -> bool:
        """All numbers were given: nobody else can be admitted."""
        return self._admitted == MAX_RECEIVER

    def admit(self, wanted: bytes | None = None) -> CastAddress:
        """Let a receiver join, by a number and a key that nobody had; the chunks of its bitmap (None: all) are sent too
        if they were not yet. Not before start(). Raises CastError when all numbers were given.
        """
        if self.is_full:
            raise CastError(
                f"{MAX_RECEIVER} receivers were admitted, which is all that one cast can have: start another"
            )
        self._admitted += 1
        control_key = secrets.token_bytes(KEY_BYTES)
        self._command(Admit(self._admitted, control_key, wanted))
        address = self._address
        return CastAddress(
            address.session,
            self._admitted,
            address.group,
            address.data_port,
            without_interface(address.interface_address),
            self.control_port,
            address.packet_bytes,
            self._cast_key.hex(),
            control_key.hex(),
        )

    def begin(self) -> None:
        """Start the first pass. The session ends by itself when every admitted receiver is done or failed."""
        self._command(Begin())

    def want(self, wanted: bytes) -> None:
        """The chunks of this bitmap are sent too if they were not yet."""
        self._command(Want(wanted))

    def limit(self, max_bitrate_bps: int) -> None:
        """The highest rate from now on, bits of Ethernet frames a second; 0: no limit."""
        self._command(Limit(max_bitrate_bps))

    def let_end(self) -> None:
        """Nobody else will be admitted."""
        self._command(LetEnd())

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
