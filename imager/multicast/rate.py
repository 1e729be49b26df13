"""How fast a cast is sent: what the network and the machines take, below the operator's limit. Pure.

Loss alone says little: a line that loses one packet in a hundred loses it at any rate, and repair mends it, while a
full buffer loses all that is above what it passes. So a loss that a receiver did not have before is put to trial: the
rate is lowered to what arrived, then by a third. If the loss stays and arrivals fall with the rate, then the loss is
the network's own and is borne from then on, and the rate goes back to where it was. If it ends, the rate settles just
below what arrived, and is tried a little higher from time to time. A receiver whose memory fills, because its disk or
its processor is slow, slows the sending to what it gets rid of before it has to drop anything.
"""

import bisect
import math
from collections import deque
from dataclasses import dataclass, field

from imager.multicast.events import Limit, RateReason
from imager.multicast.pace import BURST_S, IPV4_BYTES, LEAST_BURST_S, frame_bytes, max_burst
from imager.multicast.sequence import distance, extend
from imager.wire.packets import Report
from imager.wire.session import PACKET_BYTES, Holdup

START_BPS = 5e8
FLOOR_BPS = 2e6
UNLIMITED_BPS = 2e10
"""Above this the pacer would only cost time."""
_DOUBLE_S = 0.01
"""Until the first cut the rate doubles with the first report of what was sent since the doubling before, this apart."""
_HEADROOM = 2.0
"""The rate stays below this times what reached the fastest receiver by its last report..."""
_HEADROOM_AGAIN = 1.3
"""...and below this, once it was too much."""
_MIN_PACKETS = 64
"""A report over fewer packets says too little..."""
_MIN_S = 0.02
"""...and so does one over a shorter time."""
_STALE_S = 3.0
"""A report over a longer time is of a receiver that was away: it says nothing about the rate now."""
_TOLERATED = 0.003
"""Share of packets lost beyond what is borne, and a quarter of that, which never slows the sending."""
_DOUBT = 14.0
"""Loss is a surprise when chance alone would show it once in e to this many reports."""
_PEAK_S = 0.4
"""What a receiver can take is the most that it took in this time: less may be another program's turn."""
_LAG_PEAK_S = 1.0
"""The same where a buffer fills: a machine may have no turn for some tenths of a second."""
_LAG_S = 0.2
"""What was sent and has not come out of a receiver's buffers, in the time that it needs for it: more is too much..."""
_LAG_STANDS_S = 0.4
"""...when it stays so long..."""
_LAG_MOST_S = 0.6
"""...and at once when it is so much. Buffers of a network hold less: these are a machine's."""
_LAG_TO = 0.9
_LAG_MOST_TO = 0.7
"""Of what it takes: lets it catch up."""
_LAG_LEAST = 0.5
"""Of its best in a short time: so much it takes on average..."""
_LAG_FALLS = 0.7
"""...and this much less at most than it took before."""
_LAG_SAME = 0.3
"""What a machine takes is the same within this share."""
_LAG_TRY = 0.3
"""Growth a second when more is tried, for..."""
_LAG_TRIED_S = 5.0
"""...so long: machines tell late that it was too much."""
_LAG_TOLD_S = 1.0
"""A report says for so long how far behind a receiver is."""
_CUT_TO = 0.97
"""Of what arrives: drains the buffer that overflowed."""
_SETTLE = 0.995
"""Of what arrived when a buffer overflowed: held between trials of more."""
_TRIAL = 0.7
"""Of the rate: what arrives of a rate so much lower tells who loses."""
_TRIAL_S = 3.0
"""A trial ends when its receiver has said nothing of use for so long."""
_STAYED = 0.5
"""Share of a loss that must stay in a trial to be the network's own."""
_GONE = 0.3
"""When less than this share of a loss is left, most of it was a buffer's. (A loss is first noticed by a report that by
chance says too much.)
"""
_RECOVER_S = 0.1
_HOLD_S = 0.3
"""How long a found rate is held before more is tried; doubled while it is found again, up to..."""
_HOLD_MAX_S = 2.0
_SAME = 0.05
"""Two rates within this share are the same."""
_BURST_BACK_S = 2.0
"""So long after a loss larger bursts are tried again: small ones cost a sender's processor much. Doubled when they
were too large, up to...
"""
_BURST_BACK_MAX_S = 60.0
_BURST_TOLD_S = 0.25
"""What is lost so soon after bursts grew is lost by them."""
_TRY_FIRST = 0.05
"""Growth a second when more is tried; doubled every..."""
_TRY_DOUBLE_S = 0.1
_STEP_S = 0.005
_SENDINGS = 1000
"""Times of sending that are kept, _STEP_S apart: a report about older packets says nothing about the rate."""
_PAUSE_BURSTS = 4
"""A pause in sending longer than so many bursts, and than _STEP_S, is one in which there was nothing to send."""
_AVERAGED = 8000
"""Packets over which loss is averaged."""
_LAGS = 0.9
_BUSY = 0.8
"""Share of a time in which there was something to send, for what was taken in it to be all that can be."""
_CLEAN = 6.0
"""A loss has ended when so many packets should have been lost, and were not."""
_OUTAGE_S = 0.25
_OUTAGE_LOSS = 0.3
"""A receiver that said nothing for so long, while so much was lost, was cut off: not by a buffer."""
_LOSSY_S = 10.0
"""A receiver counts as losing so long after its loss was last a reason to slow down."""
_SHORT = 0.25
"""Memory is short when no more than this share of it is free; with half of that a receiver is sent just what it gets
rid of.
"""
_DRAIN_S = 0.5
_DRAIN_LESS_S = 2.0
"""What a receiver gets rid of is averaged over these times, when it is more and when it is less: for a while it may be
waiting for repair.
"""
_ACHIEVED_S = 0.3
_ACHIEVED = 0.85
"""A sender that sends less than this share of the rate has no more to give."""


@dataclass(slots=True)
class _Listener:
    """What one receiver's reports said."""

    report: Report
    since: float
    borne: float = 0.0
    """Share of packets that the network loses at any rate."""
    average: float = 0.0
    """Share lost..."""
    weighed: int = 0
    """...over so many packets."""
    surprise: float = 0.0
    """Packets lost beyond what is borne."""
    busy_s: float = 0.0
    """The time spent sending, up to its last report."""
    through_bps: float = 0.0
    """By its last report: the rate at which its packets were sent, less the share that was lost."""
    arrived_bps: float = 0.0
    """What it took in by the clock, or that, if it is less."""
    peaks: deque[tuple[float, float]] = field(default_factory=deque)
    """Time and bit/s of its latest reports."""
    was_cut_off: bool = False
    """As its last report looked."""
    lossy_at: float = -math.inf
    """When its loss was last a reason to slow down."""
    lags: bool = False
    """It takes in less than is sent, and a buffer fills."""
    lags_since: float | None = None
    """When it began to be far behind what was sent..."""
    lag_packets: int = 0
    """...and what it took since: all that it could."""
    lagged_at: float = -math.inf
    """When it was so last."""
    drain_bps: float = 0.0
    """What it gets rid of: chunks that are written."""
    room_bps: float = math.inf
    """What its memory allows."""

    def note(self, now: float, arrived_bps: float) -> None:
        self.arrived_bps = arrived_bps
        self.peaks.append((now, arrived_bps))
        while self.peaks[0][0] < now - _LAG_PEAK_S:
            self.peaks.popleft()

    def peak_bps(self, since: float) -> float:
        return max((bps for at, bps in self.peaks if at >= since), default=0.0)


class _Sendings:
    """When which packets were sent, on a clock that stands still while there is nothing to send."""

    def __init__(self) -> None:
        self._sequences = [0]
        self._times = [0.0]
        self._last = 0.0

    def note(self, sequence: int, now: float, longest_s: float) -> None:
        """A burst leaves; a pause longer than `longest_s` was none of the rate's."""
        busy = self._times[-1] + min(now - self._last, longest_s)
        self._last = now
        if busy - self._times[-2 if len(self._times) > 1 else -1] < _STEP_S and len(self._times) > 1:
            self._sequences[-1], self._times[-1] = sequence, busy
            return
        self._sequences.append(sequence)
        self._times.append(busy)
        if len(self._times) > 2 * _SENDINGS:
            del self._sequences[:_SENDINGS], self._times[:_SENDINGS]

    @property
    def total_s(self) -> float:
        """Time spent sending."""
        return self._times[-1]

    def busy_s(self, first: int, end: int) -> float:
        """How long it took to send the packets from `first` to before `end`."""
        return self._time(end) - self._time(first)

    def _time(self, sequence: int) -> float:
        sequences, times = self._sequences, self._times
        at = bisect.bisect_left(sequences, sequence)
        if at == 0 or at == len(sequences):
            return times[min(at, len(times) - 1)]
        share = (sequence - sequences[at - 1]) / max(1, sequences[at] - sequences[at - 1])
        return times[at - 1] + share * (times[at] - times[at - 1])


@dataclass(slots=True)
class _Trial:
    """A surprising loss and what was done about it."""

    receiver: int
    first_bps: float
    """The rate when the loss was seen."""
    rate_bps: float
    """The rate to go back to when what is left of the loss is the network's own."""
    loss: float
    cuts: int
    before_bps: float
    """What arrived before the last cut..."""
    cut_from_bps: float
    cut_at: float
    """...and the rate then."""
    clean: float = 0.0
    """Packets since, without such a loss."""


class RateControl:
    """The rate of one cast. Tell it every burst and every report."""

    def __init__(
        self,
        max_bitrate_bps: float,
        start_bps: float = START_BPS,
        packet_bytes: int = PACKET_BYTES,
        chunk_packets: float = 0.0,
        ip_bytes: int = IPV4_BYTES,
    ) -> None:
        """`chunk_packets`: of a chunk of average length. `ip_bytes`: of a packet's IP header."""
        self._frame_bits = frame_bytes(packet_bytes, ip_bytes) * 8
        self._chunk_bits = chunk_packets * self._frame_bits
        self._pause_bits = _PAUSE_BURSTS * max_burst(packet_bytes) * self._frame_bits
        self._limit = float(max_bitrate_bps)
        self._rate = min(start_bps, self._limit or start_bps)
        self._listeners: dict[int, _Listener] = {}
        self._stepped_at: float | None = None
        self._doubled_at: tuple[float, int] | None = None  # time, sequence
        self._heard_since = False  # what was sent after the doubling has reached somebody
        self._cut_sequence = 0
        self._searching = True  # nothing was too much yet
        self._found_bps: float | None = None  # what arrived when a buffer overflowed
        self._hold_s = _HOLD_S
        self._try_at = 0.0
        self._trial: _Trial | None = None
        self._behind: dict[int, float] = {}  # receivers whose buffers are to empty first: when they said so
        self._lagged: tuple[int | None, float, float] = (None, 0.0, 0.0)
        """Who lagged behind last, until when that counts, and the rate before."""
        self._burst_s = BURST_S
        self._burst_grew_at = -math.inf
        self._burst_back_s = _BURST_BACK_S
        self._same_finds = 0  # in a row
        self._lossy_at = -math.inf  # when loss was last a reason to slow down, or the burst grew since
        self._sendings = _Sendings()
        self._room_bps = math.inf  # what the memory of all receivers allows
        self._achieved = (0.0, 0)  # when it was last looked at, sequence
        self.achieved_bps = 0.0
        """What was sent of late."""
        self.best_bps = 0.0
        """The most that was sent so far."""

    @property
    def rate_bps(self) -> float:
        """The present rate; 0: not limited."""
        rate = min(self._rate, self._limit or UNLIMITED_BPS, self._room_bps)
        return 0 if rate >= UNLIMITED_BPS else rate

    @property
    def burst_s(self) -> float:
        """A burst holds at most what the rate gives in this time: small buffers on the way hold little."""
        return self._burst_s

    def limit(self, max_bitrate_bps: float) -> None:
        """The operator's limit from now on; 0: none."""
        self._limit = float(max_bitrate_bps)

    def forget(self, receiver: int) -> None:
        """A receiver is done, failed, or no longer counts."""
        self._behind.pop(receiver, None)
        if receiver == self._lagged[0]:
            self._rate = max(self._rate, self._lagged[2])
            self._found_bps = max(self._found_bps or 0.0, self._lagged[2])
            self._lagged = (None, 0.0, 0.0)
        if self._listeners.pop(receiver, None) is not None:
            self._find_room()
        if self._trial is not None and self._trial.receiver == receiver:
            self._rate = max(self._rate, self._trial.rate_bps)
            self._trial = None

    def sent(self, sequence: int, now: float) -> None:
        """A burst leaves, `sequence` is the next: while there is something to send, the rate grows."""
        self._sendings.note(sequence, now, max(_STEP_S, self._pause_bits / self._rate))
        if self._stepped_at is None:
            self._stepped_at = now
            self._doubled_at = (now, sequence)
        passed = now - self._stepped_at
        if passed < _STEP_S:
            return
        self._stepped_at = now
        since, first = self._achieved
        if now - since >= _ACHIEVED_S:
            self.achieved_bps = (sequence - first) * self._frame_bits / (now - since)
            self.best_bps = max(self.best_bps, self.achieved_bps)
            self._achieved = (now, sequence)
        if passed > _STALE_S:  # there was nothing to send
            return
        if self._burst_s < BURST_S and now - self._lossy_at >= self._burst_back_s and self._trial is None:
            self._burst_s = min(BURST_S, self._burst_s * 2)
            self._lossy_at = self._burst_grew_at = now
            self._try_at = max(self._try_at, now + _BURST_TOLD_S)  # one thing at a time
        if self._trial is not None and now - self._trial.cut_at > _TRIAL_S:
            self._trial = None
        grown = self._grown(sequence, now, passed)
        if grown > self._rate:
            most = self._limit or UNLIMITED_BPS
            fastest = max((listener.arrived_bps for listener in self._listeners.values()), default=0.0)
            if fastest:
                most = min(most, (_HEADROOM if self._searching else _HEADROOM_AGAIN) * fastest)
            self._rate = max(self._rate, min(grown, most))

    def _grown(self, sequence: int, now: float, passed: float) -> float:
        rate = self._rate
        if any(now - told < _LAG_TOLD_S for told in self._behind.values()):
            self._try_at = max(self._try_at, now)
            return rate
        if self._found_bps is None:
            assert self._doubled_at is not None
            if not self._heard_since or now - self._doubled_at[0] < _DOUBLE_S:
                return rate
            self._doubled_at, self._heard_since = (now, sequence), False
            return rate * 2
        settled = self._found_bps * _SETTLE
        if rate < settled * 0.999:
            return rate + (settled - rate) * (1 - math.exp(-passed / _RECOVER_S))
        if now < self._try_at or self._trial is not None:
            self._try_at = max(self._try_at, now)
            return rate
        if any(listener.lags for listener in self._listeners.values()):
            self._try_at = max(self._try_at, now - _TRY_DOUBLE_S)
            return rate
        if now < self._lagged[1]:
            return rate * (1 + _LAG_TRY * passed)
        if rate > self._found_bps * 1.25:
            self._found_bps = None
            self._doubled_at, self._heard_since = (now, sequence), False
            return rate
        growth = _TRY_FIRST * 2 ** ((now - self._try_at) / _TRY_DOUBLE_S)
        return rate * (1 + min(1.0, growth * passed))

    def report(self, receiver: int, report: Report, sequence: int, now: float) -> float | None:
        """A receiver's counters arrived while `sequence` is the next to send; returns the rate in bit/s that it took in
        since the report before, None when that cannot be told.
        """
        if self._doubled_at is not None and report.received:
            self._heard_since |= extend(sequence, report.heard) >= self._doubled_at[1]
        listener = self._listeners.get(receiver)
        if listener is None:
            self._listeners[receiver] = _Listener(report, now)
            return None
        old, passed = listener.report, now - listener.since
        received = distance(old.received, report.received)
        lost = max(0, distance(old.lost, report.lost))
        dropped = max(0, distance(old.dropped, report.dropped))
        offered = received + lost
        if passed > _STALE_S or received < 0:
            listener.report, listener.since = report, now
            return None
        if offered < _MIN_PACKETS or passed < _MIN_S:
            return None
        listener.report, listener.since = report, now
        self._weigh_memory(listener, old, dropped, passed)
        bits_a_second = self._frame_bits / passed
        heard, old_heard = extend(sequence, report.heard), extend(sequence, old.heard)
        busy = self._sendings.busy_s(old_heard + 1, heard + 1)
        if busy > 0:
            listener.through_bps = received / offered * (heard - old_heard) * self._frame_bits / busy
            # a deep buffer takes for a while what it cannot pass; but with pauses in sending the clock says nothing
            paused = self._sendings.total_s - listener.busy_s < _BUSY * passed
            by_clock = math.inf if paused else received * bits_a_second
            listener.lags = by_clock < _LAGS * listener.through_bps
            listener.note(now, min(listener.through_bps, by_clock))
        listener.busy_s = self._sendings.total_s
        listener.lag_packets += received
        self._weigh_backlog(receiver, listener, (sequence - 1 - heard) * self._frame_bits, sequence, now)
        # what was sent before the last cut says nothing about the rate since, however late it is seen (full buffers)
        if old_heard + 1 >= self._cut_sequence:
            self._weigh(receiver, listener, lost, offered, passed, sequence, now)
        return (received - dropped) * bits_a_second

    def _weigh_backlog(self, receiver: int, listener: _Listener, bits: int, sequence: int, now: float) -> None:
        """So much was sent and has not come out of its buffers: deep ones lose nothing for long, and answer late."""
        takes_bps = listener.peak_bps(now - _LAG_PEAK_S)
        lag_s = bits / max(takes_bps, FLOOR_BPS)
        if lag_s < _LAG_S:
            listener.lags_since = None
            self._behind.pop(receiver, None)
            return
        listener.lagged_at = now
        if listener.lags_since is None:
            listener.lags_since, listener.lag_packets = now, 0
        if lag_s >= _LAG_MOST_S:
            self._catch_up(receiver, listener, _LAG_MOST_TO, sequence, now)
        elif now - listener.lags_since >= _LAG_STANDS_S:
            self._catch_up(receiver, listener, _LAG_TO, sequence, now)

    def _catch_up(self, receiver: int, listener: _Listener, share: float, sequence: int, now: float) -> None:
        """Send less than a machine takes until what waits in its buffers is taken."""
        takes_bps = listener.peak_bps(now - _LAG_PEAK_S)
        stood_s = 0.0 if listener.lags_since is None else now - listener.lags_since
        if stood_s >= _LAG_STANDS_S:  # with its pauses, of which a short time may hold too many
            least_bps = takes_bps * _LAG_LEAST if stood_s < _LAG_PEAK_S else 0.0
            takes_bps = min(takes_bps, max(least_bps, listener.lag_packets * self._frame_bits / stood_s))
        self._behind[receiver] = now
        if takes_bps * share < min(self._rate, self._limit or UNLIMITED_BPS):
            listener.lossy_at = now
            self._find(max(takes_bps * _LAG_TO, (self._found_bps or 0.0) * _LAG_FALLS), _LAG_SAME)
            self._trial = None
            who, until, before = self._lagged
            before = before if who == receiver and now < until else self._rate
            self._cut(takes_bps * share, sequence, now)
            self._lagged = (receiver, self._try_at + _LAG_TRIED_S, before)

    def _weigh(
        self, receiver: int, listener: _Listener, lost: int, offered: int, passed: float, sequence: int, now: float
    ) -> None:
        loss = lost / offered
        was_cut_off, listener.was_cut_off = listener.was_cut_off, passed > _OUTAGE_S and loss > _OUTAGE_LOSS
        if listener.was_cut_off and not was_cut_off:
            return  # it could not even ask for what it lacked
        listener.weighed = min(listener.weighed + offered, _AVERAGED)
        listener.average += (loss - listener.average) * min(1.0, offered / listener.weighed)
        if listener.average < listener.borne * 0.7 and listener.weighed == _AVERAGED:
            listener.borne = listener.average * 1.1
        tolerated = _TOLERATED + listener.borne * 0.25
        listener.surprise = max(0.0, listener.surprise + lost - (listener.borne + tolerated) * offered)
        steepness = 2 * tolerated / max(listener.borne, 1e-4)
        if listener.surprise >= max(8.0, (_DOUBT + math.log(len(self._listeners))) / steepness):
            self._surprised(receiver, listener, loss, sequence, now)
        elif self._trial is not None and self._trial.receiver == receiver:
            if loss > listener.borne + tolerated:
                self._trial.clean = 0.0
            else:
                self._trial.clean += offered
            if self._trial.clean * self._trial.loss > _CLEAN:
                self._trial = None

    def _surprised(self, receiver: int, listener: _Listener, loss: float, sequence: int, now: float) -> None:
        listener.lossy_at = self._lossy_at = now
        if now - listener.lagged_at < _LAG_TOLD_S:  # its buffers overflowed: it is known what it takes
            self._catch_up(receiver, listener, _LAG_TO, sequence, now)
            return
        if now - self._burst_grew_at < _BURST_TOLD_S:
            self._burst_grew_at = -math.inf
            self._burst_back_s = min(self._burst_back_s * 2, _BURST_BACK_MAX_S)
            self._burst_s = max(LEAST_BURST_S, self._burst_s / 2)
            self._cut_sequence = sequence
            self._forgive()
            return
        trial = self._trial
        rate = min(self._rate, self._limit or UNLIMITED_BPS)
        if trial is None or (trial.receiver != receiver and trial.receiver not in self._listeners):
            arrived = min(listener.peak_bps(now - _PEAK_S), rate)
            least = 0.0 if self._found_bps is None else 0.5 * rate
            self._find(max(least, arrived))
            self._trial = _Trial(receiver, rate, rate, loss, 1, listener.through_bps, rate, now)
            self._cut(max(least, arrived * _CUT_TO), sequence, now)
            return
        if trial.receiver != receiver:
            return
        fell = 1 - listener.through_bps / max(1.0, trial.before_bps)
        if trial.cuts >= 2 and loss > _STAYED * trial.loss and fell > 0.5 * (1 - rate / trial.cut_from_bps):
            self._bear(listener, loss, trial, sequence, now)
            return
        self._burst_s = max(LEAST_BURST_S, self._burst_s / 2)
        if loss < _GONE * trial.loss:  # that much of it was a buffer's: it is known what it passes
            trial.rate_bps = rate
        trial.cuts += 1
        trial.clean, trial.cut_at = 0.0, now
        trial.loss, trial.before_bps, trial.cut_from_bps = loss, listener.through_bps, rate
        self._found_bps = min(self._found_bps or rate, max(listener.arrived_bps, _TRIAL * rate))
        self._cut(min(_TRIAL * rate, max(0.1 * rate, listener.arrived_bps * _CUT_TO)), sequence, now)

    def _bear(self, listener: _Listener, loss: float, trial: _Trial, sequence: int, now: float) -> None:
        """The network loses so much at any rate; the others whose loss has stayed are judged with it."""
        listener.borne = max(listener.borne, loss)
        for other in self._listeners.values():
            if other.weighed:
                likely = other.average + 2 * math.sqrt(other.average / other.weighed)
                other.borne = max(other.borne, min(likely, 2 * loss))
        self._rate = max(self._rate, trial.rate_bps)
        self._searching = trial.first_bps == trial.rate_bps
        self._found_bps = None if self._searching else trial.rate_bps
        self._doubled_at, self._heard_since = (now, sequence), False
        self._burst_s = BURST_S
        self._cut_sequence = sequence
        self._forgive()
        self._trial = None

    def _find(self, arrived_bps: float, tolerance: float = _SAME) -> None:
        """A buffer overflowed, or filled, while so much got through."""
        before = self._found_bps
        same = before is not None and abs(arrived_bps / before - 1) < tolerance
        self._hold_s = min(self._hold_s * 2, _HOLD_MAX_S) if same else _HOLD_S
        self._doubt_burst(same)
        self._found_bps = arrived_bps
        self._searching = False

    def _doubt_burst(self, same: bool) -> None:
        """It may be the burst, which grows with the rate, that finds no room: one of half the length shows it."""
        if not same:
            self._same_finds = 0
            return
        self._same_finds += 1
        if self._same_finds == 1:
            self._burst_s = max(LEAST_BURST_S, self._burst_s / 2)
        elif self._same_finds == 2:  # it was the rate
            self._burst_s = min(BURST_S, self._burst_s * 2)

    def _cut(self, rate_bps: float, sequence: int, now: float) -> None:
        self._rate = max(FLOOR_BPS, min(self._rate, rate_bps))
        self._found_bps = max(self._found_bps or 0.0, self._rate)
        self._cut_sequence = sequence
        self._stepped_at = now
        self._try_at = now + self._hold_s
        self._forgive()

    def _forgive(self) -> None:
        """All listeners are judged anew: by what is sent from now on."""
        for listener in self._listeners.values():
            listener.surprise = 0.0
            listener.weighed = 0

    def _weigh_memory(self, listener: _Listener, old: Report, dropped: int, passed: float) -> None:
        """The less memory is free, the less is sent of what the receiver gets rid of: half of that when all is full."""
        report = listener.report
        drained = max(0, distance(old.chunks_done, report.chunks_done)) * self._chunk_bits / passed
        over_s = _DRAIN_S if drained > listener.drain_bps else _DRAIN_LESS_S
        listener.drain_bps += (drained - listener.drain_bps) * min(1.0, passed / over_s)
        room_before = listener.room_bps
        free = 0.0 if dropped else report.free_slots / max(1, report.slots)
        if report.holdup is Holdup.NONE or free > _SHORT:  # else it is full of chunks that wait for repair
            listener.room_bps = math.inf
        else:
            listener.room_bps = max(FLOOR_BPS, listener.drain_bps * (0.5 + free / _SHORT))
        if listener.room_bps != room_before:
            self._find_room()

    def _find_room(self) -> None:
        self._room_bps = min((listener.room_bps for listener in self._listeners.values()), default=math.inf)

    def reason(self, now: float) -> RateReason:
        """What holds the rate where it is."""
        every = len(self._listeners)
        rate = min(self._rate, self._limit or UNLIMITED_BPS)
        if self._room_bps < rate:
            full = {number: each for number, each in self._listeners.items() if each.room_bps < rate}
            tightest = min(full, key=lambda number: full[number].room_bps)
            held_up = full[tightest].report.holdup
            return RateReason(Limit.DISK if held_up is Holdup.DISK else Limit.PROCESSOR, tightest, len(full), every)
        if self.achieved_bps < _ACHIEVED * rate and self._doubled_at is not None:
            return RateReason(Limit.SENDER, None, 0, every)
        if self._limit and self._rate >= self._limit:
            return RateReason(Limit.OPERATOR, None, 0, every)
        lossy = {number: each for number, each in self._listeners.items() if now - each.lossy_at < _LOSSY_S}
        if self._found_bps is None or not lossy:
            return RateReason(Limit.SEARCHING, None, 0, every)
        latest = max(lossy, key=lambda number: lossy[number].lossy_at)
        overrun = lossy[latest].report.holdup is Holdup.PROCESSOR
        return RateReason(Limit.PROCESSOR if overrun else Limit.LOSS, latest, len(lossy), every)
