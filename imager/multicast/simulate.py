"""A cast over a modelled network: the real sender and receiver sessions, a clock that only this module moves. Pure.

Everything follows from the seed of a Scenario, so a run that went wrong is run again exactly. Links lose, delay,
reorder and duplicate packets, each by itself; receivers join late, vanish, or are slow to take chunks.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from imager.multicast.erasure import ErasureCode, load_code
from imager.multicast.events import ChunkAssembled, ReceiverFailed, SenderStatistics, SessionEnded, SessionLost
from imager.multicast.layout import BoolArray, CastLayout
from imager.multicast.pace import FRAME_BYTES
from imager.multicast.payload import PayloadFiller
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.multicast.sender import SenderSession, SenderSettings
from imager.wire.packets import ByteArray
from imager.wire.session import SYMBOL_BYTES

_SESSION = 0x5EED


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is sent to whom over what network. Times in seconds of the simulated clock, shares in 0..1."""

    seed: int
    receivers: int = 3
    stored_lengths: tuple[int, ...] = (300_000,) * 8
    loss: float = 0
    """Of packets to each receiver, and of its datagrams to the sender."""
    duplicate: float = 0
    reorder: float = 0
    """Packets that arrive up to ten delays later than they should."""
    delay_s: float = 0.0005
    line_bps: float = 1e9
    max_bitrate_bps: float = 0
    slots: int = 64
    disk_s: float = 0
    """What a receiver takes from a whole chunk to its release."""
    wrong_chunks: float = 0
    """Chunks that a receiver releases as wrong, the first time."""
    joins_at: dict[int, float] = field(default_factory=dict)
    """Receivers that are admitted and start only then; all others do at 0."""
    vanishes_at: dict[int, float] = field(default_factory=dict)
    """Receivers that from then on neither hear nor speak."""
    away: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Receivers that neither hear nor speak from, until."""
    wanted: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Chunks that a receiver wants; all when it is not named."""
    silence_timeout_s: float = 2
    sender_timeout_s: float = 5
    begins_at: float = 0.02
    max_time_s: float = 300


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    held: dict[int, set[int]]
    """Chunks that each receiver released as good; their bytes were compared."""
    finished_at: dict[int, float]
    """When a receiver knew that the sender knows."""
    lost: dict[int, str]
    """Receivers that gave up, and why."""
    failed: dict[int, str]
    """Receivers that the sender failed, and why."""
    statistics: SenderStatistics
    group_packets: dict[int, int]
    """Packets that the network carried to each receiver before loss."""
    ended_at: float
    control_datagrams: int


class _Machine:
    """A receiver and what its shell would do."""

    def __init__(self, number: int, session: ReceiverSession, memory: ByteArray) -> None:
        self.number = number
        self.session = session
        self.memory = memory
        self.wake_at = float("inf")
        self.held: set[int] = set()
        self.wrong: set[int] = set()
        self.said_done = False


class Simulation:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, code: ErasureCode | None = None) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._numbers = np.random.default_rng(scenario.seed)
        self._layout = CastLayout(scenario.stored_lengths)
        self._chunks = [self._numbers.bytes(length) for length in scenario.stored_lengths]
        self._code = code or load_code()
        self._filler = PayloadFiller(self._layout, self._chunks.__getitem__, self._code)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._machines: dict[int, _Machine] = {}
        first = [number for number in range(scenario.receivers) if number not in scenario.joins_at]
        planned = np.zeros(self._layout.chunk_count, np.bool_)
        for number in first:
            planned |= self._wanted(number)
        settings = SenderSettings(_SESSION, scenario.silence_timeout_s, scenario.max_bitrate_bps)
        self._sender = SenderSession(self._layout, settings, planned, 0.0)
        self._sender_wake_at = float("inf")
        self._outcome = Outcome({}, {}, {}, {}, SenderStatistics(), {}, 0.0, 0)
        for number in first:
            self._start_receiver(number)
        for number, at in scenario.joins_at.items():
            self._at(at, lambda number=number: self._start_receiver(number))  # type: ignore[misc]
        self._at(scenario.begins_at, self._begin)
        self._wake_sender(0.0)

    def run(self) -> Outcome:
        """Until the sender's session is closed and every receiver's is, or the time is up."""
        while self._queue and self._now < self._scenario.max_time_s:
            self._now, _, action = heapq.heappop(self._queue)
            action()
            if self._sender.closed and all(map(self._at_end, self._machines.values())):
                break
        outcome = self._outcome
        outcome.held = {machine.number: machine.held for machine in self._machines.values()}
        outcome.ended_at = self._now
        return outcome

    def _at_end(self, machine: _Machine) -> bool:
        return machine.session.closed or machine.number in self._scenario.vanishes_at

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(time, self._now), next(self._order), action))

    def _wanted(self, number: int) -> BoolArray:
        chunks = self._scenario.wanted.get(number)
        wanted = np.ones(self._layout.chunk_count, np.bool_)
        if chunks is not None:
            wanted[:] = False
            wanted[list(chunks)] = True
        return wanted

    def _start_receiver(self, number: int) -> None:
        wanted = self._wanted(number)
        self._sender.admit(number, wanted, self._now)
        symbols = max(1, self._layout.max_chunk_symbols)
        memory = np.zeros((self._scenario.slots, symbols * SYMBOL_BYTES), np.uint8)
        settings = ReceiverSettings(_SESSION, number, self._scenario.sender_timeout_s)
        session = ReceiverSession(self._layout, settings, wanted, memory, self._code, self._now)
        machine = self._machines[number] = _Machine(number, session, memory)
        self._outcome.group_packets[number] = 0
        self._turn_receiver(machine)

    def _begin(self) -> None:
        self._sender.begin(self._now)
        self._turn_sender()

    def _gone(self, number: int) -> bool:
        start, end = self._scenario.away.get(number, (float("inf"), 0.0))
        return self._now >= self._scenario.vanishes_at.get(number, float("inf")) or start <= self._now < end

    # the sender's shell

    def _wake_sender(self, time: float) -> None:
        if time < self._sender_wake_at:
            self._sender_wake_at = time
            self._at(time, lambda: self._woken_sender(time))

    def _woken_sender(self, time: float) -> None:
        if time == self._sender_wake_at:
            self._sender_wake_at = float("inf")
            self._turn_sender()

    def _turn_sender(self) -> None:
        sender = self._sender
        due = sender.next_timeout()
        if due is not None and self._now >= due:
            sender.handle_timeout(self._now)
        burst = sender.datagrams_to_send(self._now)
        if burst is not None:
            self._filler.fill(burst)
            for machine in self._machines.values():
                self._carry(machine, burst.packets)
        for data, (_, number) in sender.replies():
            if self._survives():
                self._at(self._now + self._delay(), lambda data=data, n=number: self._answer(n, data))  # type: ignore[misc]
        for event in sender.events():
            if isinstance(event, ReceiverFailed):
                self._outcome.failed[event.receiver] = event.reason
            elif isinstance(event, SessionEnded):
                self._outcome.statistics = event.statistics
        due = sender.next_timeout()
        if burst is not None:
            self._wake_sender(self._now + len(burst.packets) * FRAME_BYTES * 8 / self._scenario.line_bps)
        elif due is not None:
            self._wake_sender(max(due, self._now + 1e-6))

    def _hear(self, number: int, data: bytes) -> None:
        self._sender.receive_datagram(data, (f"10.0.{number >> 8}.{number & 255}", number), self._now)
        self._wake_sender(self._now)

    # the network

    def _survives(self) -> bool:
        return self._random.random() >= self._scenario.loss

    def _delay(self) -> float:
        return self._scenario.delay_s * (1 + self._random.random())

    def _carry(self, machine: _Machine, packets: ByteArray) -> None:
        """The packets of a burst, to one receiver: most in one batch, some late, some twice."""
        scenario, numbers = self._scenario, self._numbers
        count = len(packets)
        self._outcome.group_packets[machine.number] += count
        kept = numbers.random(count) >= scenario.loss
        late = kept & (numbers.random(count) < scenario.reorder)
        twice = kept & (numbers.random(count) < scenario.duplicate)
        on_time = packets[kept & ~late]
        arrival = self._now + scenario.delay_s
        if len(on_time):
            self._at(arrival, lambda: self._deliver(machine, on_time))
        for odd in (late, twice):
            batch = packets[odd]
            if len(batch):
                when = arrival + scenario.delay_s * 10 * self._random.random()
                self._at(when, lambda batch=batch: self._deliver(machine, batch))  # type: ignore[misc]

    def _deliver(self, machine: _Machine, packets: ByteArray) -> None:
        if not self._gone(machine.number):
            machine.session.receive_datagrams(packets, self._now)
            self._turn_receiver(machine)

    def _answer(self, number: int, data: bytes) -> None:
        if not self._gone(number):
            self._machines[number].session.receive_datagram(data, self._now)
            self._turn_receiver(self._machines[number])

    # a receiver's shell

    def _turn_receiver(self, machine: _Machine) -> None:
        session = machine.session
        if not self._gone(machine.number):
            due = session.next_timeout()
            if due is not None and self._now >= due:
                session.handle_timeout(self._now)
            for datagram in session.datagrams_to_send(self._now):
                self._outcome.control_datagrams += 1
                if self._survives():
                    number = machine.number
                    self._at(self._now + self._delay(), lambda data=datagram, n=number: self._hear(n, data))  # type: ignore[misc]
            for event in session.events():
                if isinstance(event, ChunkAssembled):
                    self._at(self._now + self._scenario.disk_s, lambda e=event: self._release(machine, e))  # type: ignore[misc]
                elif isinstance(event, SessionLost):
                    self._outcome.lost[machine.number] = event.reason
            if session.closed and machine.said_done:
                self._outcome.finished_at.setdefault(machine.number, self._now)
        due = session.next_timeout()
        if due is not None:
            self._wake_receiver(machine, max(due, self._now + 1e-4))

    def _wake_receiver(self, machine: _Machine, time: float) -> None:
        if machine.wake_at <= self._now or time < machine.wake_at:
            machine.wake_at = time
            self._at(time, lambda: self._turn_receiver(machine) if machine.wake_at == time else None)

    def _release(self, machine: _Machine, event: ChunkAssembled) -> None:
        session = machine.session
        data = machine.memory[event.slot, : event.length].tobytes()
        if data != self._chunks[event.chunk]:
            raise AssertionError(f"receiver {machine.number} was given wrong bytes as chunk {event.chunk}")
        good = event.chunk in machine.wrong or self._random.random() >= self._scenario.wrong_chunks
        if good:
            machine.held.add(event.chunk)
        else:
            machine.wrong.add(event.chunk)
        session.release(event.chunk, good, self._now)
        self._finish_if_whole(machine)

    def _finish_if_whole(self, machine: _Machine) -> None:
        if machine.session.all_held and not machine.said_done:
            machine.said_done = True
            machine.session.finish(self._now)
            self._turn_receiver(machine)


def simulate(scenario: Scenario, code: ErasureCode | None = None) -> Outcome:
    """Run a scenario to its end. Raises AssertionError when a receiver is handed bytes that were not sent."""
    return Simulation(scenario, code).run()
