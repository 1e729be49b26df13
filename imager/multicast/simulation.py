"""A cast over a modelled network: the real sender and receiver sessions, a clock that only this module moves. Pure.

Everything follows from the seed of a Scenario, so a run that went wrong is run again exactly. Each receiver is behind a
port and a processor of its own, both of which may be too slow; links lose, delay, reorder and duplicate packets;
receivers join late, vanish, or come back after a crash with what their disks hold; the sender's program may die, and a
new one goes on with a cast of its own.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from imager.multicast.erasure import ErasureCode, load_code
from imager.multicast.events import (
    ChunkAssembled,
    ReceiverDemoted,
    ReceiverFailed,
    ReceiveStatistics,
    SenderStatistics,
    SessionEnded,
    SessionLost,
)
from imager.multicast.layout import BoolArray, CastLayout
from imager.multicast.network import Narrow, Outages, Queue
from imager.multicast.pace import FRAME_BYTES
from imager.multicast.payload import PayloadFiller
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.multicast.sender import Burst, SenderSession, SenderSettings
from imager.wire.seal import ByteArray, Unsealed
from imager.wire.session import KEY_BYTES, PACKET_BYTES, SYMBOL_BYTES, Holdup, Phase, SlowPolicy

_SESSION = 0x5EED
_KEY = bytes(KEY_BYTES)
_BEHIND_S = 0.1
"""A disk that is so far behind holds its receiver up."""
_READMITTED_S = 0.05
"""A machine that finds its cast ending asks again after this."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is sent to whom over what network. Times in seconds of the simulated clock, shares in 0..1."""

    seed: int
    receivers: int = 3
    stored_lengths: tuple[int, ...] = (300_000,) * 8
    loss: float = 0
    """Of packets to each receiver, and of its datagrams to the sender."""
    outage_every_s: float = 0
    """Each receiver hears nothing, by chance and on average so often; 0: never."""
    outage_s: tuple[float, float] = (0.1, 2.0)
    duplicate: float = 0
    reorder: float = 0
    """Packets that arrive up to ten delays later than they should."""
    delay_s: float = 0.0005
    line_bps: float = 1e9
    trunk: Narrow | None = None
    """A port that all receivers are behind."""
    ports: dict[int, Narrow] = field(default_factory=dict)
    """Receivers behind a port of their own."""
    processors: dict[int, Narrow] = field(default_factory=dict)
    """Receivers that take packets out of their socket only so fast."""
    max_bitrate_bps: float = 0
    slots: int = 64
    disk_s: float = 0
    """What a receiver takes from a whole chunk to its release, for several at once."""
    disk_bps: dict[int, float] = field(default_factory=dict)
    """Receivers that write their chunks one after the other, so fast."""
    wrong_chunks: float = 0
    """Chunks that a receiver releases as wrong, the first time."""
    joins_at: dict[int, float] = field(default_factory=dict)
    """Receivers that are admitted and start only then; all others do at 0."""
    vanishes_at: dict[int, float] = field(default_factory=dict)
    """Receivers that from then on neither hear nor speak."""
    away: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Receivers that neither hear nor speak from, until."""
    partition: tuple[float, float] | None = None
    """Nobody hears anybody from, until."""
    crashes: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Receivers that lose all but what they wrote, and come back as new ones: at, back at."""
    sender_crash: tuple[float, float] | None = None
    """When the sender dies, and when a new one goes on."""
    wanted: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Chunks that a receiver wants; all when it is not named."""
    slow: SlowPolicy = SlowPolicy.WAIT
    floor_bps: float = 0
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
    """Of the last sender."""
    group_packets: dict[int, int]
    """Packets that the network carried to each receiver before loss."""
    ended_at: float
    control_datagrams: int
    control_bytes: int
    sent_packets: int
    """SOURCE and REPAIR of all senders."""
    missed_packets: int
    """Packets that did not reach one receiver, or found no memory there, summed over receivers, and the chunks that one
    lacked when it came late or again, or that were wrong.
    """
    buffer_dropped: dict[int, int]
    """Packets that found no room at a receiver's port or in its socket."""
    receivers: dict[int, ReceiveStatistics]
    rates: list[tuple[float, float, int, int]]
    """Every 50 ms: time, the sender's rate, packets sent so far, packets dropped so far at all ports."""
    demoted: list[tuple[int, float]]
    """Receivers that were found slow, and when."""


class _Machine:
    """A receiver and what its shell would do."""

    def __init__(self, index: int, scenario: Scenario, rng: random.Random) -> None:
        self.index = index
        self.number = -1
        self.session: ReceiverSession
        self.memory: ByteArray
        self.present = False
        self.held: set[int] = set()
        self.wrong: set[int] = set()
        self.wake_at = float("inf")
        self.said_done = False
        self.writes_until = 0.0
        self.queues = [Queue(places[index], rng) for places in (scenario.ports, scenario.processors) if index in places]
        self.outages = Outages(scenario.outage_every_s, scenario.outage_s, 60, rng)

    @property
    def at_end(self) -> bool:
        return self.present and self.session.closed


class Simulation:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, code: ErasureCode | None = None) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._numbers = np.random.default_rng(scenario.seed)
        self._layout = CastLayout(scenario.stored_lengths)
        self._chunks = [self._numbers.bytes(length) for length in scenario.stored_lengths]
        self._code = code or load_code()
        self._filler = PayloadFiller(self._layout, self._read_chunk, self._code)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._machines = [_Machine(index, scenario, self._random) for index in range(scenario.receivers)]
        self._by_number: dict[int, _Machine] = {}
        self._trunk = Queue(scenario.trunk, self._random) if scenario.trunk else None
        self._session = _SESSION - 1
        self._sender: SenderSession | None = None
        self._sender_wake_at = float("inf")
        self._line_free_at = 0.0
        self._earlier: Counter[str] = Counter()
        self._outcome = Outcome({}, {}, {}, {}, SenderStatistics(), {}, 0.0, 0, 0, 0, 0, {}, {}, [], [])
        first = [machine for machine in self._machines if machine.index not in scenario.joins_at]
        for machine in self._machines:
            self._outcome.group_packets[machine.index] = 0
        self._start_sender(first)
        for index, at in scenario.joins_at.items():
            self._at(at, lambda index=index: self._come(self._machines[index]))  # type: ignore[misc]
        for index, (at, back) in scenario.crashes.items():
            self._at(at, lambda index=index: self._crash(self._machines[index]))  # type: ignore[misc]
            self._at(back, lambda index=index: self._come(self._machines[index]))  # type: ignore[misc]
        if scenario.sender_crash is not None:
            self._at(scenario.sender_crash[0], self._kill_sender)
            self._at(scenario.sender_crash[1], self._go_on)
        self._comers = len(scenario.joins_at) + len(scenario.crashes) + (scenario.sender_crash is not None)
        self._sample()

    def _read_chunk(self, index: int, out: memoryview) -> None:
        out[:] = self._chunks[index]

    def run(self) -> Outcome:
        """Until the sender's session is closed and every receiver's is, or the time is up."""
        while self._queue and self._now < self._scenario.max_time_s:
            self._now, _, action = heapq.heappop(self._queue)
            action()
            if not self._comers and self._sender is not None and self._sender.closed and self._all_at_end():
                break
        outcome = self._outcome
        self._count_sender()
        outcome.sent_packets = self._earlier["sent"]
        for machine in self._machines:
            outcome.held[machine.index] = machine.held
            outcome.buffer_dropped[machine.index] = sum(queue.dropped for queue in machine.queues)
            if machine.present:
                self._count_receiver(machine)
                outcome.receivers[machine.index] = machine.session.statistics()
        outcome.ended_at = self._now
        return outcome

    def _all_at_end(self) -> bool:
        return all(machine.at_end or machine.index in self._scenario.vanishes_at for machine in self._machines)

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(time, self._now), next(self._order), action))

    def _sample(self) -> None:
        if self._sender is not None:
            statistics = self._sender.statistics(self._now)
            dropped = sum(queue.dropped for machine in self._machines for queue in machine.queues)
            dropped += self._trunk.dropped if self._trunk else 0
            sent = statistics.source_packets + statistics.resent_packets + statistics.repair_packets
            self._outcome.rates.append((self._now, statistics.rate_bps, sent, dropped))
        self._at(self._now + 0.05, self._sample)

    # what comes and goes

    def _lacks(self, machine: _Machine) -> BoolArray:
        chunks = self._scenario.wanted.get(machine.index)
        wanted = np.ones(self._layout.chunk_count, np.bool_)
        if chunks is not None:
            wanted[:] = False
            wanted[list(chunks)] = True
        wanted[list(machine.held)] = False
        return wanted

    def _start_sender(self, machines: list[_Machine]) -> None:
        scenario = self._scenario
        self._session += 1
        planned = np.zeros(self._layout.chunk_count, np.bool_)
        for machine in machines:
            planned |= self._lacks(machine)
        settings = SenderSettings(
            self._session,
            _KEY,
            scenario.silence_timeout_s,
            scenario.max_bitrate_bps,
            slow=scenario.slow,
            floor_bps=scenario.floor_bps,
        )
        self._sender = sender = SenderSession(self._layout, settings, planned, self._now, Unsealed)
        for machine in machines:
            self._admit(machine)
        self._at(self._now + scenario.begins_at, lambda: self._begin(sender))
        self._turn_sender()

    def _begin(self, sender: SenderSession) -> None:
        if sender is self._sender:
            sender.begin(self._now)
            self._turn_sender()

    def _admit(self, machine: _Machine) -> None:
        """Under a new number, as it is given a cast's address once more."""
        assert self._sender is not None
        wanted = self._lacks(machine)
        machine.number = len(self._by_number)
        self._by_number[machine.number] = machine
        self._sender.admit(machine.number, _KEY, wanted, self._now)
        symbols = max(1, self._layout.max_chunk_symbols)
        machine.memory = np.zeros((self._scenario.slots, symbols * SYMBOL_BYTES), np.uint8)
        settings = ReceiverSettings(self._session, machine.number, _KEY, _KEY, self._scenario.sender_timeout_s)
        machine.session = ReceiverSession(
            self._layout, settings, wanted, machine.memory, self._code, self._now, Unsealed
        )
        machine.present = True
        machine.said_done = False
        machine.wake_at = float("inf")
        self._finish_if_whole(machine)
        self._turn_receiver(machine)

    def _come(self, machine: _Machine) -> None:
        """A machine joins late, or comes back; the cast may just be ending, or be over, or be dead."""
        if self._sender is None:
            if self._scenario.sender_crash is not None and self._now < self._scenario.sender_crash[1]:
                self._at(self._scenario.sender_crash[1] + _READMITTED_S, lambda: self._come(machine))
                return
        elif self._sender.phase is not Phase.ENDED:
            self._outcome.missed_packets += self._symbols(self._lacks(machine))
            self._comers -= 1
            self._admit(machine)
            self._wake_sender(self._now)
            return
        elif not self._sender.closed:
            self._at(self._now + _READMITTED_S, lambda: self._come(machine))
            return
        self._count_sender()
        self._outcome.missed_packets += self._symbols(self._lacks(machine))
        self._comers -= 1
        self._start_sender([machine])

    def _symbols(self, chunks: BoolArray) -> int:
        return sum(self._layout.chunk_symbols(chunk) for chunk in np.flatnonzero(chunks).tolist())

    def _crash(self, machine: _Machine) -> None:
        """Its memory is gone, and what it was writing; the appliance notices when it comes back."""
        if not machine.present:
            return
        self._count_receiver(machine)
        machine.present = False
        number = machine.number
        back = self._scenario.crashes[machine.index][1]
        self._at(back, lambda: self._remove(number))

    def _remove(self, number: int) -> None:
        if self._sender is not None:
            self._sender.remove(number, "it came back under another number", self._now)

    def _kill_sender(self) -> None:
        self._count_sender()
        self._sender = None

    def _go_on(self) -> None:
        """A new sender, and every machine that lacks something under a new number; the others are told to end."""
        lacking = [machine for machine in self._machines if machine.present and not machine.session.closed]
        self._comers -= 1
        for machine in lacking:
            self._count_receiver(machine)
            self._outcome.missed_packets += self._symbols(self._lacks(machine))
        self._start_sender(lacking)

    def _count_sender(self) -> None:
        if self._sender is not None:
            statistics = self._sender.statistics(self._now)
            sent = statistics.source_packets + statistics.resent_packets + statistics.repair_packets
            self._earlier["sent"] += sent
            self._outcome.statistics = statistics

    def _count_receiver(self, machine: _Machine) -> None:
        self._outcome.missed_packets += machine.session.statistics().dropped_packets

    def _gone(self, machine: _Machine) -> bool:
        scenario, now = self._scenario, self._now
        start, end = scenario.away.get(machine.index, (float("inf"), 0.0))
        return (
            not machine.present
            or now >= scenario.vanishes_at.get(machine.index, float("inf"))
            or start <= now < end
            or (scenario.partition is not None and scenario.partition[0] <= now < scenario.partition[1])
        )

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
        if sender is None:
            return
        due = sender.next_timeout()
        if due is not None and self._now >= due:
            sender.handle_timeout(self._now)
        # a socket takes no more than its line has sent
        burst = sender.datagrams_to_send(self._now) if self._now >= self._line_free_at else None
        if burst is not None:
            self._filler.fill(burst)
            self._send(burst)
        for data, (_, number) in sender.replies():
            if self._survives():
                self._at(self._now + self._delay(), lambda data=data, n=number: self._answer(n, data))  # type: ignore[misc]
        for event in sender.events():
            if isinstance(event, ReceiverFailed):
                machine = self._by_number[event.receiver]
                if machine.number == event.receiver:
                    self._outcome.failed[machine.index] = event.reason
            elif isinstance(event, ReceiverDemoted):
                self._outcome.demoted.append((self._by_number[event.receiver].index, self._now))
            elif isinstance(event, SessionEnded):
                self._outcome.statistics = event.statistics
        due = sender.next_timeout()
        if burst is not None:
            self._wake_sender(self._line_free_at)
        elif due is not None:
            self._wake_sender(max(due, self._line_free_at, self._now + 1e-6))

    def _hear(self, session: int, number: int, data: bytes) -> None:
        if self._sender is not None:
            self._sender.receive_datagram(data, (f"10.0.{number >> 8}.{number & 255}", number), self._now)
            self._wake_sender(self._now)

    # the network

    def _survives(self) -> bool:
        return self._random.random() >= self._scenario.loss

    def _delay(self) -> float:
        return self._scenario.delay_s * (1 + self._random.random())

    def _send(self, burst: Burst) -> None:
        packets = burst.packets.copy()  # the session writes its next burst over it
        gap = FRAME_BYTES * 8 / self._scenario.line_bps
        first, last = self._now, self._now + gap * (len(packets) - 1)
        self._line_free_at = last + gap
        alive = np.ones(len(packets), np.bool_)
        if self._trunk is not None:
            first, last = self._trunk.take(first, gap, alive)
        for machine in self._machines:
            if machine.present:
                self._carry(machine, packets, alive.copy(), first, last, bool(burst.runs))

    def _carry(
        self, machine: _Machine, packets: ByteArray, alive: BoolArray, first: float, last: float, data: bool
    ) -> None:
        """The packets of a burst, to one receiver: most in one batch, some late, some twice."""
        scenario, numbers = self._scenario, self._numbers
        count = len(packets)
        self._outcome.group_packets[machine.index] += count
        if self._gone(machine) or machine.outages.cover(self._now):
            if data:
                self._outcome.missed_packets += count
            return
        for queue in machine.queues:
            gap = (last - first) / max(1, count - 1)
            first, last = queue.take(first, gap, alive)
        if scenario.loss:
            alive &= numbers.random(count) >= scenario.loss
        whole = bool(alive.all())
        if not whole and data:
            self._outcome.missed_packets += count - int(np.count_nonzero(alive))
        arrival = last + scenario.delay_s
        on_time = alive
        if scenario.reorder or scenario.duplicate:
            late = alive & (numbers.random(count) < scenario.reorder)
            twice = alive & (numbers.random(count) < scenario.duplicate)
            on_time, whole = alive & ~late, whole and not late.any()
            for odd in (late, twice):
                batch = packets[odd]
                if len(batch):
                    when = arrival + scenario.delay_s * 10 * self._random.random()
                    self._deliver_at(when, machine, batch)
        batch = packets if whole else packets[on_time]
        if len(batch):
            self._deliver_at(arrival, machine, batch)

    def _deliver_at(self, time: float, machine: _Machine, packets: ByteArray) -> None:
        session = machine.session
        self._at(time, lambda: self._deliver(machine, session, packets))

    def _deliver(self, machine: _Machine, session: ReceiverSession, packets: ByteArray) -> None:
        if self._gone(machine) or machine.session is not session:
            self._outcome.missed_packets += len(packets)
            return
        session.receive_datagrams(packets, session.cast_cipher.opener(packets), self._now)
        self._turn_receiver(machine)

    def _answer(self, number: int, data: bytes) -> None:
        machine = self._by_number[number]
        if not self._gone(machine) and machine.number == number:
            machine.session.receive_datagram(data, self._now)
            self._turn_receiver(machine)

    # a receiver's shell

    def _turn_receiver(self, machine: _Machine) -> None:
        session = machine.session
        if not self._gone(machine):
            due = session.next_timeout()
            if due is not None and self._now >= due:
                session.handle_timeout(self._now)
            for datagram in session.datagrams_to_send(self._now):
                self._outcome.control_datagrams += 1
                self._outcome.control_bytes += len(datagram) + FRAME_BYTES - PACKET_BYTES
                if self._survives() and not machine.outages.cover(self._now):
                    to, number = self._session, machine.number
                    self._at(
                        self._now + self._delay(),
                        lambda data=datagram, to=to, n=number: self._hear(to, n, data),  # type: ignore[misc]
                    )
            for event in session.events():
                if isinstance(event, ChunkAssembled):
                    self._at(
                        self._written_at(machine, event.length),
                        lambda event=event: self._release(machine, session, event),  # type: ignore[misc]
                    )
                elif isinstance(event, SessionLost):
                    self._outcome.lost[machine.index] = event.reason
            if session.closed and machine.said_done:
                self._outcome.finished_at.setdefault(machine.index, self._now)
        due = session.next_timeout()
        if due is not None and machine.present:
            self._wake_receiver(machine, max(due, self._now + 1e-4))

    def _written_at(self, machine: _Machine, length: int) -> float:
        bps = self._scenario.disk_bps.get(machine.index)
        if bps is None:
            return self._now + self._scenario.disk_s
        machine.writes_until = max(machine.writes_until, self._now) + length * 8 / bps
        machine.session.held_up(Holdup.DISK if machine.writes_until - self._now > _BEHIND_S else Holdup.NONE)
        return machine.writes_until

    def _wake_receiver(self, machine: _Machine, time: float) -> None:
        if machine.wake_at <= self._now or time < machine.wake_at:
            machine.wake_at = time
            self._at(time, lambda: self._turn_receiver(machine) if machine.wake_at == time else None)

    def _release(self, machine: _Machine, session: ReceiverSession, event: ChunkAssembled) -> None:
        if not machine.present or machine.session is not session:
            return  # it crashed while it wrote this
        data = machine.memory[event.slot, : event.length].tobytes()
        if data != self._chunks[event.chunk]:
            raise AssertionError(f"receiver {machine.index} was given wrong bytes as chunk {event.chunk}")
        good = event.chunk in machine.wrong or self._random.random() >= self._scenario.wrong_chunks
        if good:
            machine.held.add(event.chunk)
        else:
            machine.wrong.add(event.chunk)
            self._outcome.missed_packets += self._layout.chunk_symbols(event.chunk)
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


def broken_promises(scenario: Scenario, outcome: Outcome) -> list[str]:
    """What a run must never do and did: a sentence each."""
    found = []
    if outcome.ended_at >= scenario.max_time_s:
        found.append(f"the session did not end within {scenario.max_time_s:g} s")
    for index, held in outcome.held.items():
        wanted = set(scenario.wanted.get(index, range(len(scenario.stored_lengths))))
        if not held <= wanted:
            found.append(f"receiver {index} holds chunks that it did not want")
        stated = index in outcome.failed or index in outcome.lost
        if held != wanted and not stated and index not in scenario.vanishes_at:
            found.append(f"receiver {index} lacks {len(wanted - held)} chunks, and nobody said so")
    planned = CastLayout(scenario.stored_lengths).symbol_count
    most = 1.3 * (planned + outcome.missed_packets) + 200
    if outcome.sent_packets > most:
        found.append(f"{outcome.sent_packets} packets were sent where {most:.0f} would have been many")
    return found
