"""One session while it is open: who came, who is served, by which sender process. Decides who is waited for."""

import asyncio
import time
from dataclasses import dataclass, field

from imager.image.store import StoredImage
from imager.multicast.events import SenderStatistics, SessionEnded
from imager.transport.caster import CastProcess
from netboot.deployment.grouping import Attendance, may_begin
from netboot.deployment.records import Session

GATHER_S = 10.0
"""How long a cast that goes on with a session waits for the machines of the one before, from the first that is back."""
MOST_DEATHS = 3
"""Sender processes in a row that die within..."""
SHORT_LIFE_S = 30.0
"""...this: starting another is useless."""
MOST_IN_VAIN = 2
"""Casts in a row that brought a machine nothing: then it fetches its chunks."""
LAST_WORD_S = 1.0
"""How long a sender that nobody waits for may take to tell what it counted."""

_COUNTERS = ("elapsed_s", "first_pass_s", "source_packets", "resent_packets", "repair_packets", "sent_bytes", "nacks")


@dataclass
class OpenCast:
    """One session's sender and receivers. `lock` is held by whoever starts, stops or fills it."""

    session: Session
    source: StoredImage
    expected: set[int]
    sender: str
    """The address of ours that it is sent from."""
    total_bps: int
    """What it may send at most; 0: no limit."""
    goes_on: bool
    """Machines were receiving before its present process came: who comes back is waited for, but not long."""
    awaited: set[int] = field(default_factory=set)
    """Who, then."""
    process: CastProcess | None = None
    started_s: float = 0.0
    """When the present process came."""
    deaths: int = 0
    """Of its processes in a row, after a short life."""
    control_port: int = 0
    numbers: dict[int, int] = field(default_factory=dict)
    """The number in the present cast of each receiver that was admitted to it."""
    may_end: bool = False
    """The present process was told that nobody else comes."""
    ready: set[int] = field(default_factory=set)
    joined: set[int] = field(default_factory=set)
    """Heard by the sender: their sockets are open."""
    gone: set[int] = field(default_factory=set)
    """Ended without being ready."""
    receiving: set[int] = field(default_factory=set)
    """Ready, lacking something, and not done."""
    served: set[int] = field(default_factory=set)
    """Done, or in need of nothing."""
    lacking: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """What each receiver lacked when it was ready last, and how often in a row it was just that."""
    unicast: dict[int, str] = field(default_factory=dict)
    """Receivers that no cast reaches, and why."""
    unicast_bps: int = 0
    """What they may fetch at most, all together; 0: no limit."""
    unicast_due_s: float = 0.0
    """When the next may fetch."""
    fetched_s: float = float("-inf")
    """When one did last."""
    first_ready_s: float | None = None
    """When the first was ready for the present process."""
    begun: bool = False
    """The present process was told to."""
    told_begun: bool = False
    totals: dict[str, float] = field(default_factory=dict)
    counted: bool = False
    """What the present process counted is in the totals: it has ended."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def may_begin(self, now: float) -> bool:
        """Whether the present process shall begin."""
        if self.session.unicast:
            return bool(self.ready)  # who fetches waits for nobody
        since = 0.0 if self.first_ready_s is None else now - self.first_ready_s
        if self.goes_on:
            here = self.numbers.keys() & self.joined
            away = self.awaited - self.served - self.gone - here
            return bool(here) and (not away or since >= GATHER_S)
        # A machine is here when its receiving process is up too: what is sent before that, it would ask for again.
        here = self.ready & (self.joined | self.served)
        attendance = Attendance(len(self.expected), len(here), len(self.gone), since)
        return may_begin(attendance, self.session.min_receivers, self.session.max_wait_s)

    def may_live_again(self, now: float) -> bool:
        """Whether a sender process that died is to have a successor: who comes again starts it."""
        self.goes_on = True
        self.deaths = self.deaths + 1 if now - self.started_s < SHORT_LIFE_S else 1
        return self.deaths <= MOST_DEATHS

    def note_lacking(self, receiver: int, wanted: bytes) -> None:
        """A receiver is ready; one that gains nothing by casts gets its chunks by unicast from now on."""
        before, times = self.lacking.get(receiver, (b"", 0))
        times = times + 1 if before == wanted and self.begun and receiver in self.joined else 0
        self.lacking[receiver] = wanted, times
        if times >= MOST_IN_VAIN:
            self.unicast.setdefault(receiver, f"{times} casts brought it nothing")

    def remove(self, receiver: int, reason: str) -> None:
        """The sender waits no longer for what this receiver was admitted as."""
        number = self.numbers.pop(receiver, None)
        if number is not None and self.process is not None:
            self.process.remove(number, reason)

    def let_end(self) -> None:
        """When everybody has come and is served, the sender may end."""
        if self.process is not None and not self.may_end and self.expected <= self.served | self.gone:
            self.may_end = True
            self.process.let_end()


def end_process(process: CastProcess, begun: bool) -> SenderStatistics | None:
    """Stop a process; what it counted when it has ended by itself, or does within a moment."""
    deadline = time.monotonic() + (LAST_WORD_S if begun else 0.0)
    try:
        while True:
            events = process.events(max(0.0, deadline - time.monotonic()))
            for event in events:
                if isinstance(event, SessionEnded):
                    return event.statistics
            if time.monotonic() >= deadline:
                return None
    finally:
        process.stop()


def add_counters(totals: dict[str, float], statistics: SenderStatistics) -> None:
    """Add what one process counted to a session's totals."""
    for name in _COUNTERS:
        totals[name] = totals.get(name, 0) + float(getattr(statistics, name))
    totals["rejected"] = totals.get("rejected", 0) + sum(statistics.rejected.values())
