"""A cast to hundreds or thousands of receivers: the real sender session, and receivers that are rows of arrays. Pure.

Each row does what a ReceiverSession does about lost packets: it counts what its blocks lack, asks for it at the
session's times, and reports. What it leaves out: bytes (so nothing is decoded), memory, disks, and everything but
independent loss. tests/property/test_cast_crowd.py holds it to the real sessions.
"""

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imager.multicast.layout import CastLayout
from imager.multicast.pace import FRAME_BYTES
from imager.multicast.receiver import RETRY_S, STATUS_FIRST_S, STATUS_INTERVALS, STATUS_S, UNHURRIED_S, chance
from imager.multicast.repair import RepairRun
from imager.multicast.sender import Burst, SenderSession, SenderSettings
from imager.wire.packets import (
    NACK_RECORD,
    Control,
    Done,
    Head,
    Nack,
    Report,
    Status,
    build_control,
    build_head,
    kind_of,
    most_nack_records,
    parse_beacon,
)
from imager.wire.seal import Unsealed
from imager.wire.session import HEADER_BYTES, KEY_BYTES, TAG_BYTES, Holdup, Phase

_SESSION = 0xC20D
_SLOTS = 64
_NEVER = np.inf


@dataclass(frozen=True, slots=True)
class CrowdOutcome:
    """How a run ended."""

    finished_s: float
    """From the beginning until the sender knew of the last."""
    sent_packets: int
    control_bytes: int
    """Frames of all receivers."""
    sent_bytes: int
    """Frames of the sender."""


class Crowd:
    """One cast to `receivers`, all there from the beginning, each of which loses `loss` of what is sent."""

    def __init__(
        self, seed: int, receivers: int, layout: CastLayout, loss: float, line_bps: float = 1e9, delay_s: float = 0.0005
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._layout = layout
        self._count = receivers
        self._loss = loss
        self._line_bps = line_bps
        self._delay_s = delay_s
        shape = (receivers, layout.block_count)
        self._lacking: npt.NDArray[np.int16] = np.zeros(shape, np.int16)
        self._in_hand: npt.NDArray[np.int16] = np.zeros(shape, np.int16)
        self._next_row: npt.NDArray[np.int16] = np.zeros(shape, np.int16)
        self._asked_at: npt.NDArray[np.float32] = np.full(shape, -1e3, np.float32)
        self._tries: npt.NDArray[np.int8] = np.zeros(shape, np.int8)
        self._low = 0  # every receiver holds the blocks below
        self._frontier = 0
        self._phase = Phase.WAITING
        self._interval_s = 0.01
        self._heard = -1
        self._received = np.zeros(receivers, np.int64)
        self._nack_at = self._random.random(receivers) * UNHURRIED_S
        self._status_at = np.full(receivers, STATUS_S)
        self._status_wait = np.full(receivers, STATUS_S)
        self._chances = np.zeros(receivers, np.int64)
        self._said = [0] * receivers
        self._done = np.zeros(receivers, np.bool_)
        self._queue: list[tuple[float, int, Burst | tuple[int, bytes]]] = []
        self._order = itertools.count()
        self._control_bytes = 0
        key = bytes(KEY_BYTES)
        self._sender = SenderSession(
            layout, SenderSettings(_SESSION, key), np.ones(layout.chunk_count, np.bool_), 0.0, Unsealed
        )
        for receiver in range(receivers):
            self._sender.admit(receiver, key, None, 0.0)

    def run(self, most_s: float = 600) -> CrowdOutcome:
        """Raises AssertionError when it takes longer."""
        sender = self._sender
        sender.begin(0.0)
        now = line_free_at = 0.0
        while sender.phase is not Phase.ENDED:
            assert now < most_s, f"not finished after {most_s} s"
            burst = sender.datagrams_to_send(now) if now >= line_free_at else None
            if burst is not None:
                packets = len(burst.packets)
                kept = Burst(burst.packets[:1].copy(), burst.runs, burst.sealer)
                line_free_at = now + packets * FRAME_BYTES * 8 / self._line_bps
                heapq.heappush(self._queue, (line_free_at + self._delay_s, next(self._order), kept))
            sender.replies()
            sender.events()
            speaks_at = float(min(self._nack_at.min(), self._status_at.min()))
            arrives_at = self._queue[0][0] if self._queue else _NEVER
            sends_at = max(sender.next_timeout() or _NEVER, line_free_at)
            now = max(now, min(speaks_at, arrives_at, sends_at))
            while self._queue and self._queue[0][0] <= now:
                self._arrive(self._queue[0][0], heapq.heappop(self._queue)[2])
            self._speak(now)
        statistics = sender.statistics(now)
        sent = statistics.source_packets + statistics.resent_packets + statistics.repair_packets
        return CrowdOutcome(now, sent, self._control_bytes, sent * FRAME_BYTES)

    # what arrives

    def _arrive(self, now: float, what: Burst | tuple[int, bytes]) -> None:
        if isinstance(what, tuple):
            receiver, data = what
            self._sender.receive_datagram(data, ("10.0.0.1", receiver), now)
        elif what.runs:
            self._take_data(what, now)
        else:
            self._take_beacon(what.packets[0, HEADER_BYTES:-TAG_BYTES].tobytes(), now)

    def _take_data(self, burst: Burst, now: float) -> None:
        if self._heard < 0:
            self._phase = max(self._phase, Phase.SENDING)
            self._status_wait[:] = max(STATUS_FIRST_S, self._interval_s)
            self._status_at[:] = now + self._status_wait
        layout, keeps = self._layout, 1 - self._loss
        for run in burst.runs:
            self._heard += run.count
            if isinstance(run, RepairRun):
                there = self._random.random((self._count, run.count)) < keeps
                self._received += there.sum(1)
                rows = np.where(there, np.arange(run.first_row + 1, run.first_row + run.count + 1), 0).max(1)
                self._next_row[:, run.block] = np.maximum(self._next_row[:, run.block], rows)
                lacks = self._lacking[:, run.block] > 0
                self._in_hand[:, run.block] += np.where(lacks, there.sum(1), 0).astype(np.int16)
                self._settle(run.block)
                continue
            first, end = run.first, run.first + run.count
            block = layout.block_of(first)
            while first < end:
                stop = min(end, int(layout.block_first_symbol[block + 1]))
                self._take_source(block, first, stop)
                first, block = stop, block + 1

    def _take_source(self, block: int, first: int, stop: int) -> None:
        size = int(self._layout.block_symbols[block])
        if block >= self._frontier:
            lost = self._random.binomial(stop - first, self._loss, self._count)
            self._lacking[:, block] += lost.astype(np.int16)
            if stop == self._layout.block_first_symbol[block + 1]:
                self._frontier = block + 1
        else:  # sent again: some of what was lost is in this part of the block
            share = (stop - first) / size * (1 - self._loss)
            self._lacking[:, block] -= self._random.binomial(self._lacking[:, block], share).astype(np.int16)
            lost = self._random.binomial(stop - first, self._loss, self._count)
        self._received += stop - first - lost
        self._settle(block)

    def _settle(self, block: int) -> None:
        whole = self._lacking[:, block] <= self._in_hand[:, block]
        if block < self._frontier:
            self._lacking[whole, block] = 0
            self._in_hand[whole, block] = 0

    def _take_beacon(self, body: bytes, now: float) -> None:
        beacon = parse_beacon(body)
        self._heard = max(self._heard, beacon.sequence - 1)
        self._interval_s = max(beacon.nack_interval_ms, 1) / 1000
        if beacon.phase > self._phase:
            self._phase = beacon.phase
            soon = now + self._interval_s * self._random.random(self._count)
            self._nack_at = np.where(self._done, _NEVER, np.minimum(self._nack_at, soon))

    # what they say

    def _speak(self, now: float) -> None:
        window = self._lacking[:, self._low : self._frontier]
        if window.shape[1] > 64 and not window[:, :32].any():
            self._low += 32
        for receiver in np.flatnonzero(self._nack_at <= now).tolist():
            self._ask(receiver, now)
        for receiver in np.flatnonzero(self._status_at <= now).tolist():
            self._status_at[receiver] = now + self._status_wait[receiver]
            longest = min(STATUS_S, STATUS_INTERVALS * self._interval_s)
            self._status_wait[receiver] = min(self._status_wait[receiver] * 1.5, longest)
            self._say(receiver, Status(self._report(receiver)), now)

    def _ask(self, receiver: int, now: float) -> None:
        pause = self._interval_s if self._phase is Phase.REPAIRING else max(self._interval_s, UNHURRIED_S)
        self._chances[receiver] += 1
        self._nack_at[receiver] = now + pause * (0.75 + 0.5 * chance(receiver, int(self._chances[receiver])))
        span = slice(self._low, self._frontier)
        lacking = self._lacking[receiver, span] - self._in_hand[receiver, span]
        wait = RETRY_S * (1 << np.minimum(self._tries[receiver, span], 4)) / 2
        due = np.flatnonzero((lacking > 0) & (now - self._asked_at[receiver, span] >= wait))
        if not len(due):
            finished = self._phase is Phase.REPAIRING and self._frontier == self._layout.block_count
            if finished and not self._lacking[receiver, span].any():
                self._done[receiver] = True
                self._nack_at[receiver] = self._status_at[receiver] = _NEVER
                self._say(receiver, Done(self._report(receiver)), now)
            return
        blocks = due + self._low
        self._asked_at[receiver, blocks] = now
        self._tries[receiver, blocks] += 1
        records = np.zeros(len(blocks), NACK_RECORD)
        records["block"], records["lacking"] = blocks, lacking[due]
        records["next_row"] = self._next_row[receiver, blocks]
        most = most_nack_records(self._layout.packet_bytes)
        for start in range(0, len(records), most):
            self._say(receiver, Nack(self._report(receiver), records[start : start + most]), now)
        self._status_at[receiver] = max(self._status_at[receiver], now + self._status_wait[receiver])

    def _report(self, receiver: int) -> Report:
        received = int(self._received[receiver])
        lost = self._heard + 1 - received
        return Report(max(0, self._heard), received, lost, 0, 0, 0, _SLOTS, _SLOTS, Holdup.NONE)

    def _say(self, receiver: int, message: Control, now: float) -> None:
        head = build_head(Head(kind_of(message), receiver, _SESSION, self._said[receiver]))
        self._said[receiver] += 1
        data = head + build_control(message) + bytes(TAG_BYTES)
        self._control_bytes += len(data) + FRAME_BYTES - self._layout.packet_bytes
        if self._random.random() >= self._loss or isinstance(message, Done):  # DONE is repeated until it arrives
            delay = self._delay_s * (1 + self._random.random())
            heapq.heappush(self._queue, (now + delay, next(self._order), (receiver, data)))
