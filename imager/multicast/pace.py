"""When the sender may send, and how fast. Pure: the clock is passed in, in seconds.

Rates are bits of Ethernet frames a second, as an operator's limit and a link's speed are.
"""

from imager.multicast.sequence import distance, extend
from imager.wire.packets import Report
from imager.wire.session import PACKET_BYTES


def frame_bytes(packet_bytes: int) -> int:
    """A packet with its UDP, IPv4 and Ethernet headers."""
    return packet_bytes + 8 + 20 + 14


def max_burst(packet_bytes: int) -> int:
    """Packets of one send: what one UDP datagram's length field and the kernel's segmentation allow."""
    return min(64, 65507 // packet_bytes)


FRAME_BYTES = frame_bytes(PACKET_BYTES)
MAX_BURST = max_burst(PACKET_BYTES)
_BURST_S = 0.001
"""A burst holds at most what the rate gives in this time."""
_MAX_DEBT_S = 0.005
"""How much of the time that was missed (another process ran) is made up for."""


class Pacer:
    """Spaces bursts so that a rate holds."""

    def __init__(self, packet_bytes: int = PACKET_BYTES) -> None:
        self._due = 0.0
        self._frame_bits = frame_bytes(packet_bytes) * 8

    def due(self) -> float:
        """When the next burst may leave."""
        return self._due

    def sent(self, packets: int, rate_bps: float, now: float) -> None:
        """A burst left; rate 0 means no limit."""
        if rate_bps > 0:
            self._due = max(self._due, now - _MAX_DEBT_S) + packets * self._frame_bits / rate_bps
        else:
            self._due = now


def burst_packets(rate_bps: float, packet_bytes: int = PACKET_BYTES) -> int:
    """How many packets may leave at once: small buffers on the way hold little of a fast sender's burst."""
    if rate_bps <= 0:
        return max_burst(packet_bytes)
    return min(max_burst(packet_bytes), max(1, int(rate_bps * _BURST_S / (frame_bytes(packet_bytes) * 8))))


class RateControl:
    """Finds a rate that the receivers take, below the operator's limit.

    It starts low and doubles as long as receivers say that they hear: one that is slow to answer is not flooded before
    it could speak. It never grows above twice what reached the fastest receiver of late: a rate that nobody takes
    paces nothing. Loss that repair mends cheaply is no reason to slow down. A receiver that loses more than MAX_LOSS
    of what is sent is overrun, and the rate falls to what it takes in; if that does not make its loss smaller, then
    the loss is not of the rate's making and is borne. A receiver that says nothing does not count.
    """

    MAX_LOSS = 0.12
    """Share of packets lost or dropped that a receiver may report before the rate falls."""
    START_BPS = 5e8
    FLOOR_BPS = 2e6
    UNLIMITED_BPS = 2e10
    """Above this the pacer would only cost time."""
    DOUBLE_S = 0.01
    """Until the first cut the rate doubles with each report that comes this long after the doubling before."""
    GROW_S = 0.05
    GROWTH = 1.08
    """After a cut the rate grows by this in GROW_S."""
    HEADROOM = 2.0
    """Of the rate above what arrived."""
    MIN_PACKETS = 64
    """A report over fewer packets says too little..."""
    MIN_S = 0.02
    """...and so does one over a shorter time."""
    STALE_S = 3.0
    """A report over a longer time is of a receiver that was away: it says nothing about the rate now."""

    def __init__(self, max_bitrate_bps: float, start_bps: float = START_BPS, packet_bytes: int = PACKET_BYTES) -> None:
        self._frame_bits = frame_bytes(packet_bytes) * 8
        self._limit = float(max_bitrate_bps)
        self._rate = min(start_bps, self._limit or start_bps)
        self._seen: dict[int, tuple[Report, float]] = {}
        self._grown_at: float | None = None
        self._cut_at: int | None = None  # sequence number
        self._answered = False  # a receiver heard data since the rate was doubled
        self._arrived: dict[int, float] = {}  # bit/s that reached each receiver when it last told
        self._borne = self.MAX_LOSS
        self._episode: tuple[float, float] | None = None  # rate and loss at the first of a row of cuts

    @property
    def rate_bps(self) -> float:
        """The present rate; 0: not limited."""
        if self._limit:
            return min(self._rate, self._limit)
        return 0 if self._rate >= self.UNLIMITED_BPS else self._rate

    def grow(self, now: float) -> None:
        """A burst is sent: while there is something to send, the rate grows."""
        if self._grown_at is None:
            self._grown_at = now
        first = self._cut_at is None
        step, factor = (self.DOUBLE_S, 2.0) if first else (self.GROW_S, self.GROWTH)
        if now - self._grown_at >= step and (self._answered or not first):
            self._grown_at = now
            self._answered = False
            most = self._limit or self.UNLIMITED_BPS
            if self._arrived:
                most = min(most, self.HEADROOM * max(self._arrived.values()))
            self._rate = max(self._rate, min(self._rate * factor, most))

    def forget(self, receiver: int) -> None:
        """A receiver is done or failed."""
        self._seen.pop(receiver, None)
        self._arrived.pop(receiver, None)

    def report(self, receiver: int, report: Report, sequence: int, now: float) -> float | None:
        """A receiver's counters arrived while `sequence` is the next to send; returns the rate in bit/s that it took in
        since the report before, None when that cannot be told.
        """
        self._answered |= report.received > 0
        before = self._seen.get(receiver)
        if before is None:
            self._seen[receiver] = (report, now)
            return None
        old, since = before
        received = distance(old.received, report.received)
        lost = max(0, distance(old.lost, report.lost))
        dropped = max(0, distance(old.dropped, report.dropped))
        offered = received + lost
        if now - since > self.STALE_S or received < 0:
            self._seen[receiver] = (report, now)
            return None
        if offered < self.MIN_PACKETS or now - since < self.MIN_S:
            return None
        self._seen[receiver] = (report, now)
        bits_a_second = self._frame_bits / (now - since)
        taken_bps = (received - dropped) * bits_a_second
        self._arrived[receiver] = received * bits_a_second
        # what was sent before the last cut says nothing about the rate since, however late it is seen (full buffers)
        if self._cut_at is None or extend(sequence, old.heard) >= self._cut_at:
            self._judge((lost + dropped) / offered, offered * bits_a_second, taken_bps, sequence, now, lost < dropped)
        return taken_bps

    def _judge(
        self, loss: float, offered_bps: float, taken_bps: float, sequence: int, now: float, memory_full: bool
    ) -> None:
        if loss <= self._borne:
            self._episode = None
            return
        sent_bps = min(self._rate, offered_bps)
        if self._episode is None:
            self._episode = (sent_bps, loss)
        elif self._rate <= self._episode[0] / 2 and loss > self._episode[1] * 0.7:
            self._borne = min(0.9, loss * 1.25)
            self._episode = None
            return
        self._cut_at = sequence
        self._grown_at = now
        # memory fills and drains by whole chunks: over a short time what was taken may be none, which says nothing
        least = 0.5 if memory_full else 0.1
        self._rate = max(self.FLOOR_BPS, sent_bps * least, min(sent_bps * 0.9, taken_bps * 0.95))
