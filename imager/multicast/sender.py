"""The sending side of a cast: what is sent next, to whom it listens, when it is over. Pure.

The first pass sends the source symbols of the planned chunks once, in order. Repair symbols go between its bursts,
never instead of them; blocks that somebody lacks as a whole are sent again after it. Receivers pull: losing any
message is harmless, and nobody is waited for but at the end, and there no longer than the silence timeout.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from imager.errors import PacketError
from imager.multicast.events import (
    PhaseChanged,
    ReceiverDone,
    ReceiverFailed,
    ReceiverJoined,
    ReceiverProgress,
    SenderEvent,
    SenderStatistics,
    SessionEnded,
)
from imager.multicast.layout import BoolArray, CastLayout
from imager.multicast.pace import MAX_BURST, Pacer, RateControl, burst_packets
from imager.multicast.repair import RepairQueue, RepairRun, Run, SourceRun
from imager.multicast.roster import Address, Roster, Standing
from imager.multicast.sequence import extend
from imager.wire.packets import (
    DATA_HEADER,
    Ack,
    Answer,
    Beacon,
    ByteArray,
    Control,
    Done,
    Join,
    Leave,
    Nack,
    Report,
    build_ack,
    build_beacon,
    first_byte_pair,
    parse_control,
)
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, Kind, Phase, Reject

_REPAIR_AGE_S = 0.005
"""Repair symbols wait so long for company, to leave as one burst."""
_BEACON_IDLE_S = 0.005
"""Beacons after the sender ran out of work: the first after this, then each after twice the time..."""
_BEACON_MAX_S = 0.25
"""...up to this, which is also their interval while the sender is busy or waits for receivers."""
_END_BEACONS = 4
_END_BEACON_S = 0.01


@dataclass(frozen=True, slots=True)
class Burst:
    """Packets that leave in one call. The arrays are the session's until its next call."""

    packets: ByteArray
    """Shape (packets, PACKET_BYTES), headers filled in; the shell fills in the payload of `runs`, in their order."""
    runs: tuple[Run, ...]
    """Empty for a beacon, which is whole."""


@dataclass(frozen=True, slots=True)
class SenderSettings:
    session: int
    silence_timeout_s: float = 30
    max_bitrate_bps: float = 0
    start_bps: float = RateControl.START_BPS
    nack_interval_s: float = 0.01


class SenderSession:
    """One sending. Feed it datagrams and time; take bursts, replies and events until it is `closed`."""

    def __init__(self, layout: CastLayout, settings: SenderSettings, wanted: BoolArray, now: float) -> None:
        """`wanted`: chunks of the first pass, shape (chunk_count,)."""
        self._layout = layout
        self._settings = settings
        self._planned = wanted.copy()
        self._roster = Roster(settings.silence_timeout_s)
        self._repairs = RepairQueue(layout)
        self._rate = RateControl(settings.max_bitrate_bps, settings.start_bps)
        self._pacer = Pacer()
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
        self._first_pass_s = 0.0
        self._packets = np.zeros((MAX_BURST, PACKET_BYTES), np.uint8)
        self._headers = self._packets[:, :HEADER_BYTES].view(DATA_HEADER)[:, 0]
        self._headers["session"] = settings.session
        self._steps = np.arange(MAX_BURST, dtype=np.int64)
        self.closed = False
        """Nothing more will come out of this session."""

    # commands of the shell

    def admit(self, receiver: int, wanted: BoolArray | None, now: float) -> None:
        """Let a receiver join; chunks it wants join the first pass as far as that has not passed them."""
        if self.phase is Phase.ENDED:
            self._events.append(ReceiverFailed(receiver, "the session has ended"))
            return
        self._roster.admit(receiver, now)
        self._rate.forget(receiver)
        self._planned |= np.ones_like(self._planned) if wanted is None else wanted

    def begin(self, now: float) -> None:
        """Start the first pass."""
        if self.phase is Phase.WAITING:
            self._begun_at = now
            self._roster.start_clock(now)
            self._enter(Phase.SENDING, now)
            self._end_if_nobody_waits(now)

    def remove(self, receiver: int, reason: str, now: float) -> None:
        """Fail a receiver."""
        member = self._roster.get(receiver)
        if member is not None and member.standing in (Standing.EXPECTED, Standing.JOINED):
            member.standing = Standing.FAILED
            self._rate.forget(receiver)
            self._events.append(ReceiverFailed(receiver, reason))
            self._end_if_nobody_waits(now)

    def stop(self, now: float) -> None:
        """End the session, whoever still lacks what."""
        if self.phase is not Phase.ENDED:
            self._enter(Phase.ENDED, now)

    # datagrams

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """A datagram of the control port. What is not of this session is counted and dropped."""
        try:
            message = parse_control(data)
        except PacketError:
            self._rejected[Reject.NOT_OURS] += 1
            return
        if message.session != self._settings.session:
            self._rejected[Reject.OTHER_SESSION] += 1
            return
        member = self._roster.get(message.receiver)
        if member is None:
            self._rejected[Reject.UNKNOWN_RECEIVER] += 1
            self._answer(message, Answer.UNKNOWN_RECEIVER, source)
            return
        if member.standing is Standing.FAILED:
            self._answer(message, Answer.FAILED_BEFORE, source)
            return
        self._answer(message, Answer.ACCEPTED, source)
        if member.standing is Standing.DONE:
            return
        member.heard_at = now
        if member.standing is Standing.EXPECTED:
            member.standing = Standing.JOINED
            member.address = source
            self._events.append(ReceiverJoined(message.receiver, source[0]))
            self._beacon_at = now  # tells the joiner where the session is
        self._handle(message, member.address, now)

    def _answer(self, message: Control, answer: Answer, source: Address) -> None:
        kind = {Join: Kind.JOIN, Done: Kind.DONE, Leave: Kind.LEAVE}.get(type(message))
        if kind is None and answer is not Answer.ACCEPTED:
            kind = Kind.STATUS
        if kind is not None:
            self._replies.append((build_ack(Ack(message.session, message.receiver, kind, answer)), source))

    def _handle(self, message: Control, address: Address, now: float) -> None:
        match message:
            case Nack(receiver=receiver, report=report, records=records):
                self._counts["nacks"] += 1
                self._report(receiver, report, now, always=False)
                frontier = self._frontier() if self.phase is not Phase.WAITING else 0
                heard = min(extend(self._sequence, report.heard), self._sequence)
                wrong = self._repairs.ask(records, heard, frontier, now)
                if wrong:
                    self._rejected[Reject.OUT_OF_RANGE] += wrong
            case _:
                if isinstance(message, Done):
                    self._finish(message, now)
                elif isinstance(message, Leave):
                    self.remove(message.receiver, message.reason or "it left", now)
                elif not isinstance(message, Join):
                    self._report(message.receiver, message.report, now, always=True)

    def _report(self, receiver: int, report: Report, now: float, always: bool) -> None:
        rate_bps = self._rate.report(receiver, report, self._sequence, now)
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
                )
            )

    def _finish(self, done: Done, now: float) -> None:
        self._report(done.receiver, done.report, now, always=True)
        member = self._roster.get(done.receiver)
        assert member is not None
        member.standing = Standing.DONE
        self._rate.forget(done.receiver)
        self._events.append(ReceiverDone(done.receiver))
        self._end_if_nobody_waits(now)

    def replies(self) -> list[tuple[bytes, Address]]:
        """Unicast answers to send."""
        replies, self._replies = self._replies, []
        return replies

    def datagrams_to_send(self, now: float) -> Burst | None:
        """The next burst to the group; None until next_timeout(), or a datagram, says otherwise."""
        if self.closed:
            return None
        if now >= self._beacon_at:
            return self._beacon(now)
        if self.phase not in (Phase.SENDING, Phase.REPAIRING) or now < self._pacer.due():
            return None
        rate_bps = self._rate.rate_bps
        runs = self._choose(burst_packets(rate_bps), now)
        if not runs:
            # out of work: the group is told at once how far the sequence went, so that it can miss the last of it
            return self._beacon(now) if self._sequence != self._beacon_sequence else None
        self._rate.grow(now)
        count = self._fill_headers(runs)
        self._pacer.sent(count, rate_bps, now)
        return Burst(self._packets[:count], tuple(runs))

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
        self._headers["sequence"][:at] = (self._sequence + self._steps[:at]) & 0xFFFFFFFF
        self._sequence += at
        return at

    def _frontier(self) -> int:
        """Blocks below it were sent once."""
        if self.phase in (Phase.REPAIRING, Phase.ENDED) or self._cursor >= self._layout.symbol_count:
            return self._layout.block_count
        return self._layout.block_of(self._cursor)

    def _beacon(self, now: float) -> Burst:
        frontier = 0 if self.phase is Phase.WAITING else self._frontier()
        interval_ms = round(self._settings.nack_interval_s * 1000)
        beacon = Beacon(self._settings.session, self.phase, self._sequence, frontier, interval_ms)
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
        else:
            self._beacon_at = now + _BEACON_MAX_S
        self._beacon_sequence = self._sequence
        return Burst(np.frombuffer(build_beacon(beacon), np.uint8).reshape(1, PACKET_BYTES), ())

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
            if self.phase is Phase.SENDING or self._repairs.row_count or self._repairs.whole_count:
                times.append(self._pacer.due())
        return min(times)

    def handle_timeout(self, now: float) -> None:
        """Fail those who have been silent too long; call it when next_timeout() has come."""
        if self.phase in (Phase.SENDING, Phase.REPAIRING):
            for receiver in self._roster.silent(now):
                self.remove(receiver, f"silent for {self._settings.silence_timeout_s:g} s", now)

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
            sent_bytes=(counts["source"] + counts["resent"] + counts["repair"]) * PACKET_BYTES,
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
        if self.phase in (Phase.SENDING, Phase.REPAIRING) and not self._roster.waited_for():
            self._enter(Phase.ENDED, now)

    def _close(self, now: float) -> None:
        self.closed = True
        self._events.append(SessionEnded(self.statistics(now)))
