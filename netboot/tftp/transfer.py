"""One file sent by TFTP to one client: RFC 1350 with the windows of RFC 7440. Pure: no socket, no clock.

`ReadTransfer` is a conversation: feed it `receive_datagram` and `handle_timeout`, send what `datagrams_to_send` gives,
come back at `next_timeout`, read `events`. It reads the content through `Content`, window by window, and keeps none.

Block numbers are counted from 1 without end and shown on the wire modulo 65536: after 65535 comes 0. A block is sent
again when time is up, or when an ACK says that a window's start was lost; never because the same ACK came twice at
once (the Sorcerer's Apprentice bug, RFC 1123, section 4.2.3.1).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from netboot.errors import WireError
from netboot.tftp.options import Terms
from netboot.tftp.retransmission import RetransmissionTimer
from netboot.wire.tftp import Ack, Error, ErrorCode, build_data, build_error, build_option_ack, parse_tftp

Address = tuple[str, int]

MAX_SENDS_UNCONFIRMED = 5
"""To a client that never answered: a forged request draws five small packets, no more."""
MAX_SENDS = 8
"""Of one window, to a client that did answer."""
MIN_SUSPICION_S = 0.003
"""An ACK that may be an echo gets this long, or two round trips, to be followed by the true one."""
MAX_STRANGERS_ANSWERED = 16
"""A transfer tells so many packets of strangers that they are wrong here; more are dropped."""


class Content(Protocol):
    """The bytes of a file."""

    @property
    def size(self) -> int:
        """Bytes; fixed for the transfer."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes, which lie inside the file; OSError or a short answer when they cannot be had."""


@dataclass(frozen=True, slots=True)
class TransferFinished:
    """The client acknowledged the last block."""

    size: int
    blocks_resent: int


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """The transfer is over and the client has not the file."""

    reason: str
    bytes_acknowledged: int


TransferEvent = TransferFinished | TransferFailed


class ReadTransfer:
    """Sends one file. `datagrams_to_send` must be called first, and again after every other call."""

    def __init__(self, peer: Address, content: Content, terms: Terms, now: float) -> None:
        self._peer = peer
        self._content = content
        self._terms = terms
        self._size = content.size
        self._last_block = self._size // terms.block_bytes + 1
        """The first block that is not full: it may be empty."""
        self._acknowledged = -1 if terms.accepted else 0
        """Highest block; the option acknowledgement counts as block 0."""
        self._sent = self._acknowledged
        """Highest block that was ever sent."""
        self._window_due = True
        self._window_sent_s = now
        self._window_sends = 0
        """How often the blocks after `_acknowledged` were sent."""
        self._next_block = self._sent + 1
        """Where the window that is due begins: after what was acknowledged, or after what was sent."""
        self._echoes_until = -1
        """Up to this block some were sent twice: until a later one is acknowledged, an ACK may be an echo."""
        self._suspicion_s: float | None = None
        """When the window is sent again if the doubtful ACK that came is not followed by a better one."""
        self._timer = RetransmissionTimer(terms.timeout_s)
        self._deadline_s: float | None = now
        self._answers: list[tuple[bytes, Address]] = []
        self._strangers = 0
        self._confirmed = False
        self._resent = 0
        self._events: list[TransferEvent] = []
        self.is_over = False
        self.ignored: Counter[str] = Counter()
        """Datagrams that changed nothing, by reason (a fixed set of reasons)."""

    @property
    def block_bytes(self) -> int:
        return self._terms.block_bytes

    @property
    def blocks_acknowledged(self) -> int:
        """The highest block that the client has, counted without end."""
        return max(self._acknowledged, 0)

    @property
    def bytes_acknowledged(self) -> int:
        return min(self.blocks_acknowledged * self._terms.block_bytes, self._size)

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """Take one datagram; whatever it holds, nothing is raised."""
        try:
            packet = parse_tftp(data)
        except WireError:
            self.ignored["not TFTP"] += 1
            return
        if source != self._peer:
            self._answer_stranger(is_error=isinstance(packet, Error), source=source)
            return
        if self.is_over:
            self.ignored["after the end"] += 1
        elif isinstance(packet, Ack):
            self._take_ack(packet.block, now)
        elif isinstance(packet, Error):
            self._fail(f"the client ended it: error {packet.code} {packet.message!r}")
        else:
            self.ignored["not for a sender"] += 1

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What to send now, in order, and where to. A window's datagrams are of one length but for its last."""
        outgoing, self._answers = self._answers, []
        if self._window_due and not self.is_over:
            self._window_due = False
            outgoing += self._build_window()
            self._window_sent_s = now
            self._window_sends += 1
            if self._next_block == self._acknowledged + 1:
                self._suspicion_s = None
            self._deadline_s = now + self._timer.interval_s()
            if self._answers:  # the file could not be read: the client is told
                outgoing, self._answers = self._answers, []
        return outgoing

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is due, in the clock of `now`; None when the transfer is over."""
        if self.is_over or self._deadline_s is None:
            return None
        return self._deadline_s if self._suspicion_s is None else min(self._deadline_s, self._suspicion_s)

    def handle_timeout(self, now: float) -> None:
        """Send again, or give up. Nothing happens before `next_timeout`."""
        if self.is_over or self._window_due or self._deadline_s is None:
            return
        if now >= self._deadline_s:
            if self._window_sends >= (MAX_SENDS if self._confirmed else MAX_SENDS_UNCONFIRMED):
                self._fail("the client stopped answering" if self._confirmed else "the client never answered")
                return
            self._timer.expired()
            self._go_back()
        elif self._suspicion_s is not None and now >= self._suspicion_s:
            self._go_back()

    def events(self) -> list[TransferEvent]:
        """What happened since the last call: at most one event, the last of the transfer."""
        happened, self._events = self._events, []
        return happened

    def abort(self, message: str) -> None:
        """End it and tell the client; the datagram waits in `datagrams_to_send`."""
        if not self.is_over:
            self._answers.append((build_error(ErrorCode.NOT_DEFINED, message), self._peer))
            self._fail(message)

    def _take_ack(self, wire_block: int, now: float) -> None:
        """Go on after the acknowledged block.

        An ACK inside the window tells of a gap, and the window is sent again from there (RFC 7440, section 4). But
        after a block was sent twice, the ACK may as well be an echo: a client answers each old block with its last ACK
        again (seen on: atftp 0.8), and to go back for echoes would send every window twice until the end. Then the
        window only slides on, and goes back when no better ACK follows.
        """
        newly = (wire_block - self._acknowledged) & 0xFFFF
        in_flight = self._sent - self._acknowledged
        if newly == 0 and self._acknowledged >= 0:
            self._take_duplicate_ack(now)
            return
        if newly > in_flight or (self._acknowledged < 0 and wire_block != 0):
            self.ignored["ACK of a block that was not sent"] += 1
            return
        is_full = newly == in_flight
        is_certain = self._window_sends == 1 and not self._window_due and self._acknowledged >= self._echoes_until
        if is_full and is_certain:
            self._timer.measured(max(0.0, now - self._window_sent_s))
        self._timer.progressed()
        self._confirmed = True
        self._acknowledged += newly
        self._window_sends = 0
        self._suspicion_s = None
        if self._acknowledged == self._last_block:
            self.is_over = True
            self._events.append(TransferFinished(self._size, self._resent))
            return
        self._window_due = True
        self._next_block = (self._acknowledged if is_full or is_certain else self._sent) + 1
        if not is_full and not is_certain:
            self._suspect(now)

    def _take_duplicate_ack(self, now: float) -> None:
        """The network doubled an ACK (do nothing), or a window's first block was lost (send it again, once).

        The two look the same but for their time: a doubled ACK comes at the heels of the first, and the client can ask
        for a window again only after some of it reached it. So half a round trip tells them apart.
        """
        round_trip_s = self._timer.round_trip_s
        may_be_loss = (
            self._terms.window_blocks > 1
            and not self._window_due
            and self._window_sends == 1
            and round_trip_s is not None
            and now - self._window_sent_s >= round_trip_s / 2
        )
        if not may_be_loss:
            self.ignored["duplicate ACK"] += 1
        elif self._acknowledged > self._echoes_until:
            self._go_back()
        else:
            self._suspect(now)

    def _go_back(self) -> None:
        self._window_due = True
        self._next_block = self._acknowledged + 1

    def _suspect(self, now: float) -> None:
        if self._suspicion_s is None:
            self._suspicion_s = now + max(MIN_SUSPICION_S, 2 * (self._timer.round_trip_s or 0.0))

    def _answer_stranger(self, *, is_error: bool, source: Address) -> None:
        self._strangers += 1
        self.ignored["from another address"] += 1
        if not is_error and self._strangers <= MAX_STRANGERS_ANSWERED:  # RFC 1350, section 4
            self._answers.append((build_error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer"), source))

    def _build_window(self) -> list[tuple[bytes, Address]]:
        if self._acknowledged < 0:
            self._resent += self._sent == 0
            self._sent = 0
            return [(build_option_ack(self._terms.accepted), self._peer)]
        size = self._terms.block_bytes
        first = self._next_block
        last = min(self._acknowledged + self._terms.window_blocks, self._last_block)
        if first > last:
            return []  # slid to the end of the file: all of it is on the way
        start = (first - 1) * size
        length = min(last * size, self._size) - start
        try:
            data = self._content.read(start, length) if length else b""
        except OSError as error:
            self.abort(f"the file cannot be read: {error.strerror or 'I/O error'}")
            return []
        if len(data) != length:
            self.abort("the file became shorter while it was sent")
            return []
        if first <= self._sent:
            self._resent += min(self._sent, last) - first + 1
            self._echoes_until = max(self._sent, last)
        self._sent = max(self._sent, last)
        return [
            (build_data(block, data[(block - first) * size : (block - first + 1) * size]), self._peer)
            for block in range(first, last + 1)
        ]

    def _fail(self, reason: str) -> None:
        self.is_over = True
        self._window_due = False
        self._events.append(TransferFailed(reason, self.bytes_acknowledged))
