"""Who is slow in a cast: each machine's share of what is sent, compared with the others'. Pure.

All are sent the same packets, so shares compare what machines take in, whatever the rate. One that takes in much less
than is usual, or whose memory is full where the others' is not, is suspected at once: from then on it does not slow the
others, and it is given some seconds to show what it takes. Then it is found slow, or counts again. One that was found
slow and keeps up later counts again too.
"""

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from imager.multicast.sequence import distance
from imager.wire.packets import Report
from imager.wire.session import Holdup, SlowPolicy

_LEAST = 0.9
"""Share of what is usual below which a machine is suspected, and found slow."""
_KEEPS_UP = 0.95
"""Share of what is usual from which one that was slow counts again."""
_RECENT_S = 0.5
"""Suspicion looks at so long..."""
_FEWEST = 64
"""...and at no fewer packets."""
_SPACE_S = 0.05
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
_LOOK_S = 0.25
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
    offered: int
    taken: int


@dataclass(slots=True)
class _Machine:
    report: Report
    mark: _Mark
    recent: deque[_Mark] = field(default_factory=deque)
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

    @property
    def share(self) -> float | None:
        """Of what was sent lately; None when that was too little to tell."""
        return _share(self.recent[0], self.mark) if self.recent else None

    def note(self, report: Report, now: float) -> None:
        received = distance(self.report.received, report.received)
        lost = distance(self.report.lost, report.lost)  # falls when a late packet comes after all
        dropped = distance(self.report.dropped, report.dropped)
        self.report = report
        self.mark = _Mark(now, self.mark.offered + received + lost, self.mark.taken + received - dropped)
        if not self.recent or now - self.recent[-1].at >= _SPACE_S:
            self.recent.append(self.mark)
        while len(self.recent) > 2 and now - self.recent[1].at >= _RECENT_S:
            self.recent.popleft()


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
        self._usual = 1.0
        self._looked_at = 0.0
        self._found: list[Verdict] = []

    def report(self, receiver: int, report: Report, now: float) -> None:
        """What a receiver said of itself."""
        if self._policy is SlowPolicy.WAIT:
            return
        machine = self._machines.get(receiver)
        if machine is None:
            self._machines[receiver] = _Machine(report, _Mark(now, 0, 0))
            return
        was_silent = now - machine.mark.at >= _AWAY_S
        machine.note(report, now)
        if machine.slow is not None and was_silent:  # what it missed meanwhile comes with one of its next reports
            machine.slow = machine.mark
        elif machine.slow is not None:
            self._judge_again(receiver, machine, machine.slow, now)
        elif machine.suspected is not None:
            self._judge(receiver, machine, machine.suspected, now)
        elif self._falls_behind(machine, now):
            machine.suspected, machine.kept_up_since = machine.recent[0], None

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
            machine.recent.clear()
            machine.mark = _Mark(now, machine.mark.offered, machine.mark.taken)

    def look(self, now: float) -> list[Verdict]:
        """What was found since the last look; call it at next_look()."""
        if now >= self.next_look():
            self._looked_at = now
            self._usual = self._usual_share()
            self._find_silent(now)
        found, self._found = self._found, []
        return found

    def next_look(self) -> float:
        """When to look again, if no report comes before."""
        if self._policy is SlowPolicy.WAIT or len(self._machines) < 2:
            return float("inf")
        return self._looked_at + _LOOK_S

    def _usual_share(self) -> float:
        counted = [machine for machine in self._machines.values() if machine.slow is None]
        shares = [share for machine in counted if (share := machine.share) is not None]
        return statistics.median_high(shares) if shares else 1.0

    def _falls_behind(self, machine: _Machine, now: float) -> bool:
        share = machine.share
        if share is None or len(self._machines) < 2:
            return False
        full = machine.is_full and now >= machine.pardoned_until and not self._most_are_full()
        if self._floor_bps:
            return (full or share < _LEAST) and self._rate_bps(machine.recent[0], machine.mark) < self._floor_bps
        return full or share < _LEAST * self._usual

    def _most_are_full(self) -> bool:
        full = sum(machine.is_full for machine in self._machines.values())
        return full * 2 > len(self._machines)

    def _judge(self, receiver: int, machine: _Machine, since: _Mark, now: float) -> None:
        if self._falls_behind(machine, now):
            machine.kept_up_since = None
        elif machine.kept_up_since is None:
            machine.kept_up_since = now
        elif now - machine.kept_up_since >= _CLEARED_S:
            machine.suspected = None
            return
        if now - since.at < _JUDGE_S:
            return
        machine.suspected = None
        share = _share(since, machine.mark)
        too_little = self._rate_bps(since, machine.mark) < self._floor_bps if self._floor_bps else True
        if share is not None and share < _LEAST * self._usual and too_little:
            taken, sent = (self._mbps(since, machine.mark, count) for count in ("taken", "offered"))
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
            keeps_up = share >= _KEEPS_UP * self._usual
        if keeps_up:
            machine.slow = None
            machine.recent.clear()
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

    def _mbps(self, since: _Mark, until: _Mark, count: str) -> str:
        packets = getattr(until, count) - getattr(since, count)
        return f"{packets * self._frame_bits / max(until.at - since.at, 1e-6) / 1e6:.0f}"


def _share(since: _Mark, until: _Mark) -> float | None:
    offered = until.offered - since.offered
    return (until.taken - since.taken) / offered if offered >= _FEWEST else None
