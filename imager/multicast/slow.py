"""Who is slow in a cast: each machine's share of what is sent, compared with the others'. Pure.

All are sent the same packets, so shares compare what machines take in, whatever the rate. One that takes in much less
than is usual, or whose memory is full where the others' is not, is suspected at once: from then on it does not slow the
others, and it is given some seconds to show what it takes. Then it is found slow, or counts again. One that was found
slow and keeps up later counts again too. Where shares go up and down, as those of emulated machines do, a difference
says something only beyond what chance makes of it: equal machines, all of which are sent too much, are none of them
slow, and the rate follows them.
"""

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from imager.multicast.sequence import distance
from imager.wire.packets import Report
from imager.wire.session import Holdup, SlowPolicy

_LEAST = 0.8
"""Share of what is usual below which a machine is suspected, and found slow..."""
_SURE = 4.0
"""...if so many standard deviations below..."""
_DIFFERS = 0.1
"""...and so much of what is sent."""
_NOISE_LASTS = 0.95
"""Of how much its share goes up and down: kept from one time to the next."""
_KEEPS_UP = 0.9
"""Share of what is usual from which one that was slow counts again."""
_SPACE_S = 0.2
"""Shares are measured over times of this length, or from one report to the next..."""
_WINDOWS = (1, 2, 4, 8, 16)
"""...and compared over so many of them: suspicion is quick where they hardly differ."""
_FEWEST = 64
"""Packets, fewer of which say nothing."""
_SAMPLE = 64
"""Machines that tell what is usual in a room."""
_JUDGE_S = 4.0
"""A suspect has so long to show what it takes; one that was slow keeps up for so long before it counts again, twice as
long after each time."""
_CLEARED_S = 1.0
"""A suspect that keeps up for so long was only cut off for a moment."""
_PARDON_S = 30.0
"""One whose memory was full, but that kept up, is not suspected for it again so soon."""
_SILENT_S = 3.0
"""STATUS comes twice a second: one that says nothing for so long while others speak is not waited for."""
_AWAY_S = 1.5
"""One that was slow and said nothing for so long begins anew to show that it keeps up."""
_LOOK_S = 0.1
_FULL = 4
"""Memory is full when no more than one slot in so many is free."""
_HOLDUPS = {Holdup.NONE: "", Holdup.DISK: "its disk: ", Holdup.PROCESSOR: "its processor: "}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one machine."""

    receiver: int
    is_slow: bool
    """False: it keeps up again."""
    reason: str
    """For a person."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Packets up to a time."""

    at: float
    sent: int
    """By the sender."""
    offered: int
    """What it knows of: what waits in its buffers is not counted."""
    taken: int


@dataclass(slots=True)
class _Machine:
    report: Report
    mark: _Mark
    marks: deque[_Mark] = field(default_factory=lambda: deque(maxlen=_WINDOWS[-1] + 1))
    """Of late, _SPACE_S apart."""
    variance: float = 0.0
    """Of its share, from one time to the next."""
    suspected: _Mark | None = None
    kept_up_since: float | None = None
    pardoned_until: float = 0.0
    slow: _Mark | None = None
    """Since when it has been slow, or was last found so."""
    times: int = 0
    """That it was found slow."""

    @property
    def is_full(self) -> bool:
        return self.report.free_slots * _FULL <= self.report.slots

    def share(self, window: int) -> float | None:
        """Of what was sent in so many times of late; None when that was too little to tell. The first may be short."""
        if window == 1 and self.marks:
            return _share(self.recent, self.mark)
        return _share(self.marks[-1 - window], self.mark) if len(self.marks) > window else None

    @property
    def recent(self) -> _Mark:
        """Where the last of these times began; there is one mark at least."""
        return self.marks[-min(2, len(self.marks))]

    def _variance_of_late(self) -> float:
        """One jump, as of a machine that becomes slow, is left out."""
        shares = [share for a, b in itertools.pairwise(self.marks) if (share := _share(a, b)) is not None]
        jumps = sorted((b - a) ** 2 for a, b in itertools.pairwise(shares))[:-1]
        return sum(jumps) / len(jumps) / 2 if jumps else 0.0

    def note(self, report: Report, sequence: int, now: float) -> None:
        received = distance(self.report.received, report.received)
        lost = distance(self.report.lost, report.lost)  # falls when a late packet comes after all
        dropped = distance(self.report.dropped, report.dropped)
        self.report = report
        offered, taken = self.mark.offered + received + lost, self.mark.taken + received - dropped
        self.mark = _Mark(now, sequence, offered, taken)
        if not self.marks or now - self.marks[-1].at >= _SPACE_S:
            self.marks.append(self.mark)
            self.variance = max(self._variance_of_late(), _NOISE_LASTS * self.variance)


class SlowWatch:
    """Judges the receivers of one cast by their reports."""

    def __init__(self, policy: SlowPolicy, floor_bps: float, frame_bytes: int) -> None:
        """`floor_bps`: what a machine must take in not to be slow, bits of Ethernet frames a second; 0: nearly what the
        others take.
        """
        self._policy = policy
        self._floor_bps = floor_bps
        self._frame_bits = frame_bytes * 8
        self._machines: dict[int, _Machine] = {}
        self._usual: dict[int, float] = {}  # by window: the share of the machine in the middle
        self._variance = 0.0
        self._looked_at = 0.0
        self._found: list[Verdict] = []

    def report(self, receiver: int, report: Report, sequence: int, now: float) -> None:
        """What a receiver said of itself, while `sequence` is the next to send."""
        if self._policy is SlowPolicy.WAIT:
            return
        machine = self._machines.get(receiver)
        if machine is None:
            self._machines[receiver] = _Machine(report, _Mark(now, sequence, 0, 0))
            return
        was_silent = now - machine.mark.at >= _AWAY_S
        machine.note(report, sequence, now)
        if machine.slow is not None and was_silent:  # what it missed meanwhile comes with one of its next reports
            machine.slow = machine.mark
        elif machine.slow is not None:
            self._judge_again(receiver, machine, machine.slow, now)
        elif machine.suspected is not None:
            self._judge(receiver, machine, machine.suspected, now)
        elif self._falls_behind(machine, now) and self._may_suspect():
            machine.suspected, machine.kept_up_since = machine.recent, None

    def forget(self, receiver: int) -> None:
        """A receiver is done, failed or gone."""
        self._machines.pop(receiver, None)

    def counts(self, receiver: int) -> bool:
        """Whether this receiver may slow the others: it is neither slow nor suspected."""
        machine = self._machines.get(receiver)
        return machine is None or (machine.slow is None and machine.suspected is None)

    def pardon_all(self, now: float) -> None:
        """Nobody but slow ones is left: they are compared with each other from now on."""
        for machine in self._machines.values():
            machine.slow = machine.suspected = None
            machine.marks.clear()
            machine.mark = _Mark(now, machine.mark.sent, machine.mark.offered, machine.mark.taken)

    def look(self, now: float) -> list[Verdict]:
        """What was found since the last look; call it at next_look()."""
        if now >= self.next_look():
            self._looked_at = now
            self._find_usual()
            self._find_silent(now)
        found, self._found = self._found, []
        return found

    def next_look(self) -> float:
        """When to look again, if no report comes before."""
        if self._policy is SlowPolicy.WAIT or len(self._machines) < 2:
            return float("inf")
        return self._looked_at + _LOOK_S

    def _find_usual(self) -> None:
        counted = [machine for machine in self._machines.values() if machine.slow is None]
        counted = counted[:: len(counted) // _SAMPLE + 1]
        for window in _WINDOWS:
            shares = [share for machine in counted if (share := machine.share(window)) is not None]
            if 2 * len(shares) > len(counted):
                self._usual[window] = statistics.median(shares)
            else:
                self._usual.pop(window, None)
        self._variance = statistics.median(machine.variance for machine in counted) if counted else 0.0

    def _may_suspect(self) -> bool:
        """Half of those that count always do: what most take is no slow machine's share."""
        counted = [machine for _, machine in self._counted()]
        return 2 * (1 + sum(machine.suspected is not None for machine in counted)) <= len(counted)

    def _falls_behind(self, machine: _Machine, now: float) -> bool:
        if len(self._machines) < 2:
            return False
        if self._floor_bps and (not machine.marks or self._recent_bps(machine) >= self._floor_bps):
            return False
        return self._fills_alone(machine, now) or any(
            self._is_behind(machine, machine.share(window), window) for window in self._usual
        )

    def _is_behind(self, machine: _Machine, share: float | None, window: int) -> bool:
        usual = self._usual[window]
        if share is None or share >= _LEAST * usual:
            return False
        noise = math.sqrt((machine.variance + self._variance) / window)
        return usual - share > max(_DIFFERS, _SURE * noise)

    def _fills_alone(self, machine: _Machine, now: float) -> bool:
        return machine.is_full and now >= machine.pardoned_until and not self._most_are_full()

    def _most_are_full(self) -> bool:
        full = sum(machine.is_full for machine in self._machines.values())
        return full * 2 > len(self._machines)

    def _keeps_up(self, machine: _Machine, now: float) -> bool:
        share, usual = machine.share(_WINDOWS[0]), self._usual.get(_WINDOWS[0])
        if share is None or usual is None or self._fills_alone(machine, now):
            return False
        if self._floor_bps and self._recent_bps(machine) >= self._floor_bps:
            return True
        return share >= _LEAST * usual

    def _judge(self, receiver: int, machine: _Machine, since: _Mark, now: float) -> None:
        if not self._keeps_up(machine, now):
            machine.kept_up_since = None
        elif machine.kept_up_since is None:
            machine.kept_up_since = now
        elif now - machine.kept_up_since >= _CLEARED_S:
            machine.suspected = None
            machine.marks.clear()
            return
        if now - since.at < _JUDGE_S:
            return
        machine.suspected = None
        too_little = self._rate_bps(since, machine.mark) < self._floor_bps if self._floor_bps else True
        window = max(self._usual, default=None)
        if window and too_little and self._is_behind(machine, _share(since, machine.mark), window):
            taken, sent = (self._mbps(since, machine.mark, count) for count in ("taken", "sent"))
            why = _HOLDUPS[machine.report.holdup] if machine.is_full else ""
            self._find_slow(receiver, machine, f"{why}it takes in {taken} of {sent} Mbit/s")
        else:
            machine.pardoned_until = now + _PARDON_S

    def _judge_again(self, receiver: int, machine: _Machine, since: _Mark, now: float) -> None:
        if now - since.at < _JUDGE_S * 2 ** min(machine.times - 1, 6):
            return
        share = _share(since, machine.mark)
        machine.slow = machine.mark
        if share is None or machine.is_full:
            return
        if self._floor_bps:
            keeps_up = self._rate_bps(since, machine.mark) >= self._floor_bps
        else:
            keeps_up = share >= _KEEPS_UP * self._usual.get(max(self._usual, default=0), 1.0)
        if keeps_up:
            machine.slow = None
            machine.marks.clear()
            self._found.append(Verdict(receiver, False, "it keeps up again"))

    def _find_slow(self, receiver: int, machine: _Machine, reason: str) -> None:
        machine.slow, machine.suspected = machine.mark, None
        machine.times += 1
        self._found.append(Verdict(receiver, True, reason))

    def _find_silent(self, now: float) -> None:
        silent = [(number, machine) for number, machine in self._counted() if now - machine.mark.at >= _SILENT_S]
        if self._policy is SlowPolicy.DEMOTE and len(silent) * 2 <= len(self._machines):
            for receiver, machine in silent:
                self._find_slow(receiver, machine, f"it says nothing for {_SILENT_S:g} s")

    def _counted(self) -> Iterable[tuple[int, _Machine]]:
        return ((number, machine) for number, machine in self._machines.items() if machine.slow is None)

    def _rate_bps(self, since: _Mark, until: _Mark) -> float:
        return (until.taken - since.taken) * self._frame_bits / max(until.at - since.at, 1e-6)

    def _recent_bps(self, machine: _Machine) -> float:
        return self._rate_bps(machine.recent, machine.mark)

    def _mbps(self, since: _Mark, until: _Mark, count: str) -> str:
        packets = getattr(until, count) - getattr(since, count)
        return f"{packets * self._frame_bits / max(until.at - since.at, 1e-6) / 1e6:.0f}"


def _share(since: _Mark, until: _Mark) -> float | None:
    offered = max(until.sent - since.sent, until.offered - since.offered)
    return (until.taken - since.taken) / offered if offered >= _FEWEST else None
