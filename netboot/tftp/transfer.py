"""One file sent by TFTP to one client: RFC 1350 with the windows of RFC 7440. Pure: no socket, no clock.

`ReadTransfer` is a conversation: feed it `receive_datagram` and `handle_timeout`, send what `datagrams_to_send` gives,
come back at `next_timeout`, read `events`. A shell that sends many packets a call takes them by `bursts_to_send`, and
tries `receive_expected` first: the ACK of a whole window, which is what comes by the thousand.

Block numbers are counted from 1 without end; on the wire 0 comes after 65535, or 1 for a client that says so or takes
no 0. A block is sent
again when time is up, or when an ACK says that a window's start was lost; never because the same ACK came twice at
once (the Sorcerer's Apprentice bug, RFC 1123, section 4.2.3.1).
"""

from collections import Counter
from dataclasses import dataclass

from netboot.errors import WireError
from netboot.tftp.blocks import Content, PreparedBlocks, ShrunkError, blocks_after, wire_number
from netboot.tftp.options import Terms
from netboot.tftp.retransmission import RetransmissionTimer
from netboot.wire.tftp import Ack, Error, ErrorCode, build_ack, build_error, build_option_ack, parse_tftp

Address = tuple[str, int]

MAX_SENDS_UNCONFIRMED = 5
"""To a client that never answered: a forged request draws five small packets, no more."""
MAX_SENDS = 8
"""Of one window, to a client that did answer."""
MIN_SUSPICION_S = 0.003
"""An ACK that may be an echo gets this long, or two round trips, to be followed by the true one."""
ROLLOVER_BLOCK = 65535
"""The last one whose number all clients agree on."""


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


@dataclass(frozen=True, slots=True)
class TransferDeclined:
    """The client ended it at the option acknowledgement: it wanted to know the size. Seen on: OVMF, PXE ROMs, iPXE."""

    size: int
    message: str
    """The client's own word for it: "User aborted the transfer", "TFTP Aborted"."""


TransferEvent = TransferFinished | TransferFailed | TransferDeclined


class ReadTransfer:
    """Sends one file. `datagrams_to_send` must be called first, and again after every other call."""

    def __init__(
        self, peer: Address, content: Content, terms: Terms, now: float, blocks: PreparedBlocks | None = None
    ) -> None:
        """`blocks`: the content's at this block size, when they are shared."""
        self._peer = peer
        self._terms = terms
        self._size = content.size
        self._blocks = blocks or PreparedBlocks(content, terms.block_bytes)
        self._packet_bytes = self._blocks.packet_bytes
        self._last_block = self._blocks.last
        self._piece = memoryview(b"")
        self._piece_first = 1
        self._piece_end = 1
        """The first block after the piece."""
        self._expected = b""
        """The ACK that asks for the next window and leaves no doubt; empty when another packet has to be looked at."""
        self._rollover = terms.rollover or 0
        self._tried_rollover_to_1 = False
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
        self._error = b""
        """To be sent to the client at the end."""
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
    def packet_bytes(self) -> int:
        """Of a full DATA packet."""
        return self._packet_bytes

    @property
    def blocks_acknowledged(self) -> int:
        """The highest block that the client has, counted without end."""
        return max(self._acknowledged, 0)

    @property
    def is_confirmed(self) -> bool:
        """The client has answered: it is where it says to be."""
        return self._confirmed

    @property
    def round_trip_s(self) -> float | None:
        """From a window to its ACK, smoothed; None before the first."""
        return self._timer.round_trip_s

    @property
    def bytes_acknowledged(self) -> int:
        return min(self.blocks_acknowledged * self._terms.block_bytes, self._size)

    def receive_expected(self, data: bytes, now: float) -> memoryview | None:
        """The fast path: when `data`, from the peer, is the ACK of the window sent last, the burst to send now.

        None when it is anything else, or the next window does not lie in one piece: nothing has changed then, and
        `receive_datagram` takes it.
        """
        if data != self._expected:
            return None
        first = self._sent + 1
        end = min(self._sent + self._terms.window_blocks, self._last_block) + 1
        if first < self._piece_first or end > self._piece_end or first >= end:
            return None
        self._timer.measured(max(0.0, now - self._window_sent_s))
        self._timer.progressed()
        self._confirmed = True
        self._acknowledged = self._sent
        self._sent = end - 1
        self._window_sends = 1
        self._window_sent_s = now
        self._deadline_s = now + self._timer.interval_s()
        self._expected = build_ack(wire_number(self._sent, self._rollover))
        size = self._packet_bytes
        return self._piece[(first - self._piece_first) * size : (end - self._piece_first) * size]

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """Take one datagram; whatever it holds, nothing is raised."""
        if source != self._peer:
            self.ignored["from another address"] += 1
            return
        try:
            packet = parse_tftp(data)
        except WireError:
            self.ignored["not TFTP"] += 1
            return
        if self.is_over:
            self.ignored["after the end"] += 1
        elif isinstance(packet, Ack):
            self._take_ack(packet.block, now)
        elif isinstance(packet, Error):
            self._take_error(packet)
        else:
            self.ignored["not for a sender"] += 1

    def receive_refusal(self) -> None:
        """The client's host said that nobody listens there (ICMP port unreachable)."""
        if not self.is_over:
            self._fail("the client closed its port")

    def bursts_to_send(self, now: float) -> list[bytes | memoryview]:
        """What to send to the peer now, in order: bytes are one datagram, a memoryview is DATA.

        A burst of DATA is one datagram or several, of `packet_bytes` each but the last.
        """
        bursts: list[bytes | memoryview] = []
        if self._window_due and not self.is_over:
            self._window_due = False
            bursts = self._build_window()
            self._window_sent_s = now
            self._window_sends += 1
            if self._next_block == self._acknowledged + 1:
                self._suspicion_s = None
            self._deadline_s = now + self._timer.interval_s()
            self._expect()
        if self._error:  # the file could not be read, or the appliance ends: the client is told
            bursts, self._error = [self._error], b""
        return bursts

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """The same, one by one, and where to."""
        return [(bytes(packet), self._peer) for burst in self.bursts_to_send(now) for packet in self.cut(burst)]

    def cut(self, burst: bytes | memoryview) -> list[bytes | memoryview]:
        """The datagrams of a burst."""
        size = self._packet_bytes
        if isinstance(burst, bytes) or len(burst) <= size:
            return [burst]
        return [burst[at : at + size] for at in range(0, len(burst), size)]

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
            self._try_other_rollover()
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
            self._error = build_error(ErrorCode.NOT_DEFINED, message)
            self._fail(message)

    def _take_ack(self, wire_block: int, now: float) -> None:
        """Go on after the acknowledged block.

        An ACK inside the window tells of a gap, and the window is sent again from there (RFC 7440, section 4). But
        after a block was sent twice, the ACK may as well be an echo: a client answers each old block with its last ACK
        again (seen on: atftp 0.8), and to go back for echoes would send every window twice until the end. Then the
        window only slides on, and goes back when no better ACK follows.
        """
        newly = self._newly_acknowledged(wire_block)
        in_flight = self._sent - self._acknowledged
        if newly == 0 and self._acknowledged >= 0:
            self._take_duplicate_ack(now)
            return
        if not 0 < newly <= in_flight or (self._acknowledged < 0 and wire_block != 0):
            self.ignored["ACK of a block that was not sent"] += 1
            return
        is_full = newly == in_flight
        is_certain = self._window_sends == 1 and not self._window_due and self._acknowledged >= self._echoes_until
        if is_full and is_certain:
            self._timer.measured(max(0.0, now - self._window_sent_s))
        self._timer.progressed()
        self._confirmed = True
        self._acknowledged += newly
        self._expected = b""
        self._window_sends = 0
        self._suspicion_s = None
        if self._acknowledged == self._last_block:
            self._end(TransferFinished(self._size, self._resent))
            return
        self._window_due = True
        self._next_block = (self._acknowledged if is_full or is_certain else self._sent) + 1
        if not is_full and not is_certain:
            self._suspect(now)

    def _newly_acknowledged(self, wire_block: int) -> int:
        if self._acknowledged == ROLLOVER_BLOCK and self._tried_rollover_to_1 and wire_block in (0, 1):
            self._rollover = wire_block  # one block is on the way, and its two numbers were tried
            return 1
        return blocks_after(self._acknowledged, wire_block, self._rollover)

    def _take_error(self, packet: Error) -> None:
        if self._acknowledged < 0:
            self._end(TransferDeclined(self._size, packet.message or f"error {packet.code}"))
        else:
            self._fail(f"the client ended it: error {packet.code} {packet.message!r}")

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
        self._expected = b""
        self._next_block = self._acknowledged + 1

    def _suspect(self, now: float) -> None:
        if self._suspicion_s is None:
            self._suspicion_s = now + max(MIN_SUSPICION_S, 2 * (self._timer.round_trip_s or 0.0))

    def _try_other_rollover(self) -> None:
        """A client that does not take block 0 after 65535 may wait for 1: every second resend says so.

        Only block by block: then an ACK tells by its number which of the two the client took.
        """
        if self._acknowledged == ROLLOVER_BLOCK and self._terms.window_blocks == 1 and self._terms.rollover is None:
            self._rollover = 1 if self._window_sends % 2 == 0 else 0
            self._tried_rollover_to_1 |= self._rollover == 1

    def _expect(self) -> None:
        """Set the ACK that needs no thought: of a whole window that was sent once, with no echo to be feared."""
        is_certain = self._window_sends == 1 and self._acknowledged >= max(self._echoes_until, 0)
        is_doubtful = self._acknowledged == ROLLOVER_BLOCK or self._suspicion_s is not None
        if is_certain and not is_doubtful and self._sent < self._last_block:
            self._expected = build_ack(wire_number(self._sent, self._rollover))
        else:
            self._expected = b""

    def _build_window(self) -> list[bytes | memoryview]:
        if self._acknowledged < 0:
            self._resent += self._sent == 0
            self._sent = 0
            return [build_option_ack(self._terms.accepted)]
        first = self._next_block
        last = min(self._acknowledged + self._terms.window_blocks, self._last_block)
        if first > last:
            return []  # slid to the end of the file: all of it is on the way
        try:
            bursts = self._bursts(first, last + 1)
        except ShrunkError as error:
            self.abort(str(error))
            return []
        except OSError as error:
            self.abort(f"the file cannot be read: {error.strerror or 'I/O error'}")
            return []
        if first <= self._sent:
            self._resent += min(self._sent, last) - first + 1
            self._echoes_until = max(self._sent, last)
        self._sent = max(self._sent, last)
        return bursts

    def _bursts(self, first: int, end: int) -> list[bytes | memoryview]:
        bursts: list[bytes | memoryview] = []
        size = self._packet_bytes
        while first < end:
            start, piece = self._blocks.piece(first, self._rollover)
            after = min(start + self._blocks.piece_blocks, self._last_block + 1)
            upto = min(end, after)
            bursts.append(piece[(first - start) * size : (upto - start) * size])
            first = upto
            self._piece, self._piece_first, self._piece_end = piece, start, after
        return bursts

    def _fail(self, reason: str) -> None:
        self._end(TransferFailed(reason, self.bytes_acknowledged))

    def _end(self, event: TransferEvent) -> None:
        self.is_over = True
        self._window_due = False
        self._expected = b""
        self._events.append(event)
