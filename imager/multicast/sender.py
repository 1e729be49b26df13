"""The sending side of a cast: what is sent next, to whom it listens, when it is over. Pure.

The first pass sends the source symbols of the planned chunks once, in order. Repair symbols go between its bursts,
never instead of them; blocks that somebody lacks as a whole are sent again after it. Receivers pull: losing any
message is harmless, and nobody is waited for but at the end, and there no longer than the silence timeout.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from imager.errors import CastError, PacketError
from imager.multicast.events import (
    PhaseChanged,
    RateChanged,
    RateReason,
    ReceiverCounts,
    ReceiverDemoted,
    ReceiverDone,
    ReceiverFailed,
    ReceiverJoined,
    ReceiverProgress,
    SenderEvent,
    SenderStatistics,
    SessionEnded,
)
from imager.multicast.layout import BoolArray, CastLayout
from imager.multicast.pace import IPV4_BYTES, Pacer, burst_packets, frame_bytes, longest_burst
from imager.multicast.probe import PROBE_GAP_S, Probing
from imager.multicast.rate import START_BPS, RateControl
from imager.multicast.repair import WHOLE_LACKING, RepairQueue, RepairRun, Run, SourceRun
from imager.multicast.roster import Member, Roster, Standing
from imager.multicast.sequence import extend
from imager.multicast.slow import SlowWatch, Verdict
from imager.wire.packets import (
    DATA_HEADER,
    FROM_SENDER,
    Ack,
    Answer,
    Beacon,
    Control,
    Done,
    Head,
    Join,
    Leave,
    Nack,
    Report,
    Status,
    build_ack,
    build_beacon,
    build_beacon_head,
    build_head,
    first_byte_pair,
    kind_of,
    parse_control,
    parse_head,
)
from imager.wire.seal import AesGcm, ByteArray, Cipher, Sealer
from imager.wire.session import HEADER_BYTES, Kind, Phase, Reject, SlowPolicy

_REPAIR_AGE_S = 0.005
"""Repair symbols wait so long for company, to leave as one burst."""
_FEEDBACK_SHARE = 0.01
"""Of the rate: what all NACKs together may take..."""
_FEEDBACK_BITS = 1600
"""...each so long, as a frame: that of a receiver of many, which asks for what the others lacked as well."""
_NACK_MAX_S = 1.0
_RECKON_S = 0.1
"""How often it is looked at what the blocks of late needed..."""
_RECKON_AFTER_S = 0.2
"""...those which were sent so long ago, and three NACK intervals, that all who lack something have said so."""
_BEACON_IDLE_S = 0.005
"""Beacons after the sender ran out of work: the first after this, then each after twice the time..."""
_BEACON_MAX_S = 0.25
"""...up to this, which is also their interval while the sender is busy or waits for receivers."""
_RATE_TOLD_S = 1.0
_RATE_DIFFERS = 0.05
"""A rate is told again when it differs by this share."""
_END_BEACONS = 4
_END_BEACON_S = 0.01
_ALONE_S = 0.75
"""Receivers say something twice a second: when nobody has for so long, the network is away or all of them are, and what
would be sent meanwhile had to be sent again."""
_LAST_SEQUENCE = 0xFFFFFFFF

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Burst:
    """Packets that leave together. The arrays are the session's until its next call."""

    packets: ByteArray
    """Shape (packets, packet bytes), headers filled in; the shell has the payloads of `runs` sealed, in their order."""
    runs: tuple[Run, ...]
    """Empty for a beacon, which is whole."""
    sealer: Sealer
    """Of `packets`."""


@dataclass(frozen=True, slots=True)
class SenderSettings:
    session: int
    cast_key: bytes = field(repr=False)
    silence_timeout_s: float = 30
    max_bitrate_bps: float = 0
    start_bps: float = START_BPS
    nack_interval_s: float = 0.01
    slow: SlowPolicy = SlowPolicy.WAIT
    floor_bps: float = 0
    """See SlowWatch."""
    is_held: bool = False
    """It does not end before let_end(), though nobody is waited for."""
    probes: int = 0
    """Beacons sent in a burst before the first pass."""
    fec_share: float = 0.0
    """Repair symbols sent unasked after each chunk's source symbols, as a share of them."""
    ip_bytes: int = IPV4_BYTES
    """Of the IP header of what is sent."""


class SenderSession:
    """One sending. Feed it datagrams and time; take bursts, replies and events until it is `closed`."""

    def __init__(
        self,
        layout: CastLayout,
        settings: SenderSettings,
        wanted: BoolArray,
        now: float,
        cipher: Callable[[bytes], Cipher] = AesGcm,
    ) -> None:
        """`wanted`: chunks of the first pass, shape (chunk_count,)."""
        self._layout = layout
        self._settings = settings
        self._planned = wanted.copy()
        self._roster = Roster(settings.silence_timeout_s)
        self._repairs = RepairQueue(layout)
        chunk_packets = layout.symbol_count / max(1, layout.chunk_count)
        self._rate = RateControl(
            settings.max_bitrate_bps, settings.start_bps, layout.packet_bytes, chunk_packets, settings.ip_bytes
        )
        self._rate_told = (RateReason(), 0.0, now)  # why, bit/s, when
        self._slow = SlowWatch(settings.slow, settings.floor_bps, frame_bytes(layout.packet_bytes, settings.ip_bytes))
        self._probing = Probing(settings.probes)
        self._pacer = Pacer(layout.packet_bytes, settings.ip_bytes)
        self._events: list[SenderEvent] = []
        self._replies: list[tuple[bytes, Address]] = []
        self._rejected: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self.phase = Phase.WAITING
        self._sequence = 0
        self._cursor = 0  # symbol of the first pass that comes next
        self._chunk_end = 0  # symbol after the chunk that the cursor is in
        self._repaired_last = False
        self._beacon_at = now
        self._beacon_wait = _BEACON_MAX_S
        self._beacon_sequence = -1  # what the last beacon said
        self._end_beacons = _END_BEACONS
        self._begun_at = now
        self._heard_at = now  # of anybody who still receives
        self._is_alone = False  # nobody has said anything of late
        self._first_pass_s = 0.0
        self._passed: deque[tuple[float, int]] = deque([(now, 0)])  # when, and what the frontier was then
        self._is_held = settings.is_held
        self._cipher = cipher
        self._cast_cipher = cipher(settings.cast_key)
        self._beacons = 0
        most = longest_burst(layout.packet_bytes)
        self._packets = np.zeros((most, layout.packet_bytes), np.uint8)
        self._sealer = self._cast_cipher.sealer(self._packets)
        self._headers = self._packets[:, :HEADER_BYTES].view(DATA_HEADER)[:, 0]
        self._headers["session"] = settings.session
        self._steps = np.arange(most, dtype=np.int64)
        self.closed = False
        """Nothing more will come out of this session."""

    # commands of the shell

    def admit(self, receiver: int, control_key: bytes, wanted: BoolArray | None, now: float) -> None:
        """Let a receiver join; chunks it wants join the first pass as far as that has not passed them.

        Raises ValueError for a number that was used before: who comes again has another number and another key.
        """
        if self.phase is Phase.ENDED:
            self._events.append(ReceiverFailed(receiver, "the session has ended"))
            return
        self._roster.admit(receiver, self._cipher(control_key), now)
        self._planned |= np.ones_like(self._planned) if wanted is None else wanted

    def begin(self, now: float) -> None:
        """Start the first pass, after a burst of probes."""
        if self.phase is Phase.WAITING and not self._probing.left:
            self._begun_at = now
            self._roster.start_clock(now)
            if self._probing.start(self._roster.joined()):
                self._beacon_at = now
            else:
                self._start_sending(now)

    def _start_sending(self, now: float) -> None:
        self._heard_at = now
        self._enter(Phase.SENDING, now)
        self._end_if_nobody_waits(now)

    def remove(self, receiver: int, reason: str, now: float, is_final: bool = False) -> None:
        """Fail a receiver. `is_final`: it shall not come again."""
        member = self._roster.get(receiver)
        if member is not None and member.standing in (Standing.EXPECTED, Standing.JOINED, Standing.DEMOTED):
            member.standing = Standing.FAILED
            self._forget(receiver)
            self._events.append(ReceiverFailed(receiver, reason, is_final))
            self._end_if_nobody_waits(now)

    def want(self, wanted: BoolArray) -> None:
        """Chunks that join the first pass as far as that has not passed them."""
        self._planned |= wanted

    def limit(self, max_bitrate_bps: float) -> None:
        """The highest rate from now on; 0: no limit."""
        self._rate.limit(max_bitrate_bps)

    def let_end(self, now: float) -> None:
        """Nobody else will come: the session ends when nobody is waited for."""
        self._is_held = False
        self._end_if_nobody_waits(now)

    def stop(self, now: float) -> None:
        """End the session, whoever still lacks what."""
        if self.phase is not Phase.ENDED:
            self._enter(Phase.ENDED, now)

    # datagrams

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """A datagram of the control port. What no receiver of this session has just said is counted and dropped.

        Nothing costs a cipher but what claims a known receiver's number and a counter beyond its last. Where it comes
        from does not count, and what answers it goes there: an address that was kept would be that of whoever sends a
        receiver's datagram on before it arrives itself.
        """
        try:
            head = parse_head(data)
            member = self._member_of(head)
            body = member.cipher.open(data)
        except PacketError as error:
            self._rejected[str(error)] += 1
            return
        member.counter = head.counter
        try:
            message = parse_control(head.kind, body)
        except PacketError:
            self._rejected[Reject.NOT_OURS] += 1
            return
        if member.standing is Standing.FAILED:
            self._answer(head.receiver, member, message, Answer.FAILED_BEFORE, source)
            return
        self._answer(head.receiver, member, message, Answer.ACCEPTED, source)
        if member.standing is Standing.DONE:
            return
        member.heard_at = self._heard_at = now
        self._is_alone = False
        if member.standing is Standing.EXPECTED:
            member.standing = Standing.JOINED
            self._events.append(ReceiverJoined(head.receiver, source[0]))
            self._beacon_at = now  # tells the joiner where the session is
        self._handle(head.receiver, member, message, now)

    def _member_of(self, head: Head) -> Member:
        """Who may have said this. Raises PacketError when nobody."""
        if head.session != self._settings.session:
            raise PacketError(Reject.OTHER_SESSION)
        member = self._roster.get(head.receiver)
        if member is None:
            raise PacketError(Reject.UNKNOWN_RECEIVER)
        if not member.counter < head.counter < FROM_SENDER:
            raise PacketError(Reject.REPEATED)
        return member

    def _answer(self, receiver: int, member: Member, message: Control, answer: Answer, target: Address) -> None:
        kind = kind_of(message)
        if answer is Answer.ACCEPTED and kind in (Kind.NACK, Kind.STATUS):
            return
        head = build_head(Head(Kind.ACK, receiver, self._settings.session, FROM_SENDER + member.said))
        member.said += 1
        ack = Ack(kind, answer, self._sequence)
        self._replies.append((member.cipher.seal(head, build_ack(ack)), target))

    def _handle(self, receiver: int, member: Member, message: Control, now: float) -> None:
        match message:
            case Nack(report=report, records=records):
                self._counts["nacks"] += 1
                self._report(receiver, report, now, always=False)
                if member.standing is Standing.DEMOTED:
                    return
                if not self._slow.counts(receiver):  # what it lacks by its slowness waits, as it does itself
                    records = records[records["lacking"] <= WHOLE_LACKING]
                frontier = self._frontier() if self.phase is not Phase.WAITING else 0
                heard = min(extend(self._sequence, report.heard), self._sequence)
                wrong = self._repairs.ask(records, heard, frontier, now)
                if wrong:
                    self._rejected[Reject.OUT_OF_RANGE] += wrong
            case Done(report=report):
                self._finish(receiver, report, now)
            case Leave(reason=reason):
                self.remove(receiver, reason or "it left", now)
            case Status(report=report):
                self._report(receiver, report, now, always=True)
            case Join():
                pass

    def _report(self, receiver: int, report: Report, now: float, always: bool) -> None:
        probed = self._probing.report(receiver, report)
        if probed is not None:
            self._events.append(probed)
        self._slow.report(receiver, report, self._sequence, now)
        rate_bps = None
        if self._slow.counts(receiver):
            rate_bps = self._rate.report(receiver, report, self._sequence, now)
        else:
            self._rate.forget(receiver)
        if always:
            self._events.append(
                ReceiverProgress(
                    receiver,
                    report.chunks_done,
                    report.received,
                    report.lost,
                    report.dropped,
                    report.repairs,
                    rate_bps or 0.0,
                    bool(report.beacons or report.received),
                )
            )

    def _finish(self, receiver: int, report: Report, now: float) -> None:
        self._report(receiver, report, now, always=True)
        member = self._roster.get(receiver)
        assert member is not None
        member.standing = Standing.DONE
        self._forget(receiver)
        self._events.append(ReceiverDone(receiver))
        self._end_if_nobody_waits(now)

    def _forget(self, receiver: int) -> None:
        self._rate.forget(receiver)
        self._slow.forget(receiver)

    def replies(self) -> list[tuple[bytes, Address]]:
        """Unicast answers to send."""
        replies, self._replies = self._replies, []
        return replies

    def datagrams_to_send(self, now: float) -> Burst | None:
        """The next burst to the group; None until next_timeout(), or a datagram, says otherwise.

        Raises CastError when the key of the cast may seal no more.
        """
        if self.closed:
            return None
        if max(self._sequence + len(self._packets), self._beacons) > _LAST_SEQUENCE:
            raise CastError("this cast has sent as many packets as it may, 2^32: start it again for who lacks the rest")
        if now >= self._beacon_at:
            return self._beacon(now)
        if self.phase not in (Phase.SENDING, Phase.REPAIRING) or now < self._pacer.due():
            return None
        self._is_alone = now - self._heard_at > _ALONE_S
        if self._is_alone:
            return None
        rate_bps = self._rate.rate_bps
        runs = self._choose(burst_packets(rate_bps, self._layout.packet_bytes, self._rate.burst_s), now)
        if not runs:
            # out of work: the group is told at once how far the sequence went, so that it can miss the last of it
            return self._beacon(now) if self._sequence != self._beacon_sequence else None
        count = self._fill_headers(runs)
        self._rate.sent(self._sequence, now)
        if self.phase is Phase.SENDING:
            self._reckon(now)
        if now - self._rate_told[2] >= _RATE_TOLD_S:
            self._tell_rate(now)
        self._pacer.sent(count, rate_bps, now, self._rate.burst_s)
        return Burst(self._packets[:count], tuple(runs), self._sealer)

    def _tell_rate(self, now: float) -> None:
        reason, sent_bps = self._rate.reason(now), self._rate.achieved_bps
        before, told_bps, _ = self._rate_told
        if reason != before or abs(sent_bps - told_bps) > _RATE_DIFFERS * told_bps:
            self._events.append(RateChanged(sent_bps, reason))
            told_bps = sent_bps
        self._rate_told = (reason, told_bps, now)

    def _choose(self, room: int, now: float) -> list[Run]:
        """New symbols and repair take turns when both are there; whole blocks wait for the first pass to end."""
        repairs = self._repairs
        new = self._more_to_send(now)
        ripe = repairs.row_count >= room or (repairs.oldest is not None and now - repairs.oldest >= _REPAIR_AGE_S)
        turn = not self._repaired_last or not (new or repairs.whole_count)
        if repairs.row_count and turn and (ripe or not new):
            self._repaired_last = True
            runs = repairs.take_rows(room, self._sequence)
            self._counts["repair"] += sum(run.count for run in runs)
            return runs
        self._repaired_last = False
        if new:
            runs = self._take_new(room)
            self._counts["source"] += sum(run.count for run in runs)
            return runs
        runs = repairs.take_whole(room, self._sequence)
        self._counts["resent"] += sum(run.count for run in runs)
        return runs

    def _more_to_send(self, now: float) -> bool:
        """Whether the first pass has symbols left; moves the cursor into the next planned chunk, or ends the pass."""
        if self.phase is not Phase.SENDING:
            return False
        if self._cursor < self._chunk_end:
            return True
        if self._cursor < self._layout.symbol_count:
            chunk = self._layout.chunk_of(self._cursor)
            ahead = np.flatnonzero(self._planned[chunk : chunk + 4096])
            while not len(ahead) and chunk < self._layout.chunk_count:
                chunk += 4096
                ahead = np.flatnonzero(self._planned[chunk : chunk + 4096])
            if len(ahead):
                chunk += int(ahead[0])
                self._cursor = int(self._layout.chunk_first_symbol[chunk])
                self._chunk_end = int(self._layout.chunk_first_symbol[chunk + 1])
                return True
        self._cursor = self._chunk_end = self._layout.symbol_count
        self._first_pass_s = now - self._begun_at
        self._enter(Phase.REPAIRING, now)
        return False

    def _take_new(self, room: int) -> list[Run]:
        """Source symbols from the cursor on, over the ends of chunks."""
        runs: list[Run] = []
        while room:
            count = min(room, self._chunk_end - self._cursor)
            runs.append(SourceRun(self._cursor, count))
            self._cursor += count
            room -= count
            if self._cursor < self._chunk_end:
                break
            share = max(self._settings.fec_share, self._repairs.steady_share)
            if share:
                self._repairs.volunteer(self._layout.chunk_of(self._cursor - 1), share)
            following = self._cursor < self._layout.symbol_count and self._layout.chunk_of(self._cursor)
            if following is False or not self._planned[following]:
                break
            self._chunk_end = int(self._layout.chunk_first_symbol[following + 1])
        return runs

    def _fill_headers(self, runs: list[Run]) -> int:
        at = 0
        for run in runs:
            part = self._headers[at : at + run.count]
            steps = self._steps[: run.count]
            if isinstance(run, RepairRun):
                part["magic"], part["kind"] = first_byte_pair(Kind.REPAIR)
                part["row"] = run.first_row + steps
                part["number"] = run.block
            else:
                part["magic"], part["kind"] = first_byte_pair(Kind.SOURCE)
                part["row"] = 0
                part["number"] = run.first + steps
            at += run.count
        self._headers["sequence"][:at] = self._sequence + self._steps[:at]
        self._sequence += at
        return at

    def _frontier(self) -> int:
        """Blocks below it were sent once."""
        if self.phase in (Phase.REPAIRING, Phase.ENDED) or self._cursor >= self._layout.symbol_count:
            return self._layout.block_count
        return self._layout.block_of(self._cursor)

    def _nack_interval_s(self) -> float:
        """It grows with the receivers, so that what they say does not."""
        said_bits = len(self._roster.waited_for()) * _FEEDBACK_BITS
        return max(self._settings.nack_interval_s, min(_NACK_MAX_S, said_bits / (_FEEDBACK_SHARE * self._capacity_bps)))

    @property
    def _capacity_bps(self) -> float:
        return min(self._rate.rate_bps or math.inf, max(self._rate.best_bps, self._settings.start_bps))

    def _reckon(self, now: float) -> None:
        """Learn what blocks need from those that were sent some time ago."""
        if now - self._passed[-1][0] < _RECKON_S:
            return
        self._passed.append((now, self._frontier()))
        settled = now - _RECKON_AFTER_S - 3 * self._nack_interval_s()
        while len(self._passed) > 1 and self._passed[1][0] <= settled:
            self._repairs.reckon(self._passed[0][1], self._passed[1][1])
            self._passed.popleft()

    def _beacon(self, now: float) -> Burst:
        frontier = 0 if self.phase is Phase.WAITING else self._frontier()
        interval_ms = round(self._nack_interval_s() * 1000)
        head = build_beacon_head(self._settings.session, self._beacons)
        self._beacons += 1
        probing = self.phase is Phase.WAITING and self._probing.left > 0
        beacon = Beacon(self.phase, self._sequence, frontier, interval_ms, probing)
        sealed = self._cast_cipher.seal(head, build_beacon(beacon, self._layout.symbol_bytes))
        if self.phase is Phase.ENDED:
            self._end_beacons -= 1
            self._beacon_at = now + _END_BEACON_S
            if self._end_beacons <= 0:
                self._close(now)
        elif self.phase is Phase.REPAIRING:
            if self._sequence != self._beacon_sequence:
                self._beacon_wait = _BEACON_IDLE_S
            self._beacon_at = now + self._beacon_wait
            self._beacon_wait = min(self._beacon_wait * 2, _BEACON_MAX_S)
        elif probing:
            self._beacon_at = now + PROBE_GAP_S
            if self._probing.sent():
                self._start_sending(now)
        else:
            self._beacon_at = now + _BEACON_MAX_S
        self._beacon_sequence = self._sequence
        return Burst(np.frombuffer(sealed, np.uint8).reshape(1, -1), (), self._sealer)

    # time

    def next_timeout(self) -> float | None:
        """When handle_timeout or datagrams_to_send has something to do, if nothing arrives before."""
        if self.closed:
            return None
        times = [self._beacon_at]
        if self.phase in (Phase.SENDING, Phase.REPAIRING):
            silence = self._roster.next_silence()
            if silence is not None:
                times.append(silence)
            times.append(self._slow.next_look())
            work = self.phase is Phase.SENDING or self._repairs.row_count or self._repairs.whole_count
            if work and not self._is_alone:
                times.append(self._pacer.due())
        return min(times)

    def handle_timeout(self, now: float) -> None:
        """Fail those who have been silent too long, judge who is slow; call it when next_timeout() has come."""
        if self.phase in (Phase.SENDING, Phase.REPAIRING):
            for receiver in self._roster.silent(now):
                self.remove(receiver, f"silent for {self._settings.silence_timeout_s:g} s", now)
            for verdict in self._slow.look(now):
                self._take_verdict(verdict, now)

    def _take_verdict(self, verdict: Verdict, now: float) -> None:
        receiver, reason = verdict.receiver, verdict.reason
        member = self._roster.get(receiver)
        if member is None or member.standing not in (Standing.JOINED, Standing.DEMOTED):
            return
        if not verdict.is_slow:
            self._roster.restore(receiver, now)
            self._events.append(ReceiverCounts(receiver, reason))
        elif self._settings.slow is SlowPolicy.FAIL:
            self.remove(receiver, f"too slow: {reason}", now, is_final=True)
        else:
            member.standing = Standing.DEMOTED
            self._rate.forget(receiver)
            self._events.append(ReceiverDemoted(receiver, reason))
            self._end_if_nobody_waits(now)

    def events(self) -> list[SenderEvent]:
        events, self._events = self._events, []
        return events

    def statistics(self, now: float) -> SenderStatistics:
        counts = self._counts
        begun = self.phase is not Phase.WAITING
        return SenderStatistics(
            elapsed_s=now - self._begun_at if begun else 0,
            first_pass_s=self._first_pass_s,
            source_packets=counts["source"],
            resent_packets=counts["resent"],
            repair_packets=counts["repair"],
            sent_bytes=(counts["source"] + counts["resent"] + counts["repair"]) * self._layout.packet_bytes,
            nacks=counts["nacks"],
            rejected=dict(self._rejected),
            rate_bps=self._rate.rate_bps,
        )

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._beacon_at = now
        self._beacon_wait = _BEACON_IDLE_S
        self._events.append(PhaseChanged(phase))

    def _end_if_nobody_waits(self, now: float) -> None:
        """First it is the turn of those who were too slow for the others."""
        if self.phase not in (Phase.SENDING, Phase.REPAIRING) or self._roster.waited_for():
            return
        demoted = self._roster.restore_demoted(now)
        if demoted:
            self._slow.pardon_all(now)
            self._events += [ReceiverCounts(receiver, "the others are done") for receiver in demoted]
        elif not self._is_held:
            self._enter(Phase.ENDED, now)

    def _close(self, now: float) -> None:
        self.closed = True
        self._events.append(SessionEnded(self.statistics(now)))
