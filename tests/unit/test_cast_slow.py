"""Who is found slow, when, by which words, and what slow and late machines cost the others."""

import random
from dataclasses import dataclass, field

import pytest

from imager.multicast.network import Narrow
from imager.multicast.simulation import Scenario, broken_promises, simulate
from imager.multicast.slow import SlowWatch, Verdict
from imager.wire.packets import Report
from imager.wire.session import Holdup, SlowPolicy

FRAME_BYTES = 1250
"""10,000 bits: 10,000 packets a second are 100 Mbit/s."""
SENT = 2500
"""Packets in a quarter of a second."""


@dataclass
class Room:
    """Machines that are sent the same packets and tell four times a second what they took."""

    policy: SlowPolicy = SlowPolicy.DEMOTE
    floor_bps: float = 0
    now: float = 0.0
    verdicts: list[tuple[float, Verdict]] = field(default_factory=list)
    offered: int = 0
    taken: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watch = SlowWatch(self.policy, self.floor_bps, FRAME_BYTES)

    def go_on(
        self,
        seconds: float,
        shares: dict[int, float | None],
        full: tuple[int, ...] = (),
        holdup: Holdup = Holdup.DISK,
        uncounted_slow_down: float = 1.0,
    ) -> None:
        """`shares`: what each takes of what is sent, None: it says nothing."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += 0.25
            self.offered += int(SENT * uncounted_slow_down)
            for receiver, share in shares.items():
                if share is None:
                    continue
                taken = self.taken[receiver] = self.taken.get(receiver, 0.0) + share * int(SENT * uncounted_slow_down)
                lost = self.offered - int(taken)
                free = 4 if receiver in full else 60
                report = Report(self.offered & 0xFFFFFFFF, int(taken), lost, 0, 0, 0, 64, free, holdup)
                self.watch.report(receiver, report, self.offered, self.now)
            self.verdicts += [(self.now, verdict) for verdict in self.watch.look(self.now)]

    @property
    def slow(self) -> list[int]:
        return [verdict.receiver for _, verdict in self.verdicts if verdict.is_slow]


def test_one_that_takes_a_tenth_is_suspected_at_once_and_slow_after_four_seconds() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0, 3: 1.0})
    room.go_on(0.75, {1: 1.0, 2: 1.0, 3: 0.1})
    assert [room.watch.counts(receiver) for receiver in (1, 2, 3)] == [True, True, False]
    assert room.verdicts == []
    room.go_on(5, {1: 1.0, 2: 1.0, 3: 0.1})
    ((when, verdict),) = room.verdicts
    assert (verdict.receiver, verdict.is_slow) == (3, True)
    assert 5.5 < when < 7
    assert verdict.reason.startswith("it takes in 1") and "of 100 Mbit/s" in verdict.reason


def test_with_two_machines_the_slower_one_is_the_slow_one() -> None:
    room = Room()
    room.go_on(8, {1: 0.5, 2: 1.0})
    assert room.slow == [1]


def test_when_most_take_little_nobody_is_slow() -> None:
    room = Room()
    room.go_on(8, {1: 0.5, 2: 0.52, 3: 0.5, 4: 1.0})
    assert room.slow == []
    assert all(room.watch.counts(receiver) for receiver in (1, 2, 3, 4))


@pytest.mark.parametrize("machines", [2, 4, 8])
def test_equal_machines_whose_shares_go_up_and_down_are_none_of_them_slow(machines: int) -> None:
    chance = random.Random(machines)
    room = Room()
    for _ in range(240):
        room.go_on(0.25, {number: chance.choice([0.3, 0.6, 1.0, 1.0]) for number in range(machines)})
    assert room.slow == []


def test_one_whose_share_goes_up_and_down_far_below_the_others_is_slow_all_the_same() -> None:
    chance = random.Random(5)
    room = Room()
    for _ in range(60):
        shares: dict[int, float | None] = {number: chance.choice([0.7, 1.0]) for number in range(4)}
        room.go_on(0.25, shares | {4: chance.choice([0.0, 0.3])})
    assert room.slow == [4]


def test_half_of_a_room_always_counts() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0})
    room.go_on(0.5, {1: 0.1, 2: 1.0})
    room.go_on(0.5, {1: 1.0, 2: 0.1})
    assert sum(room.watch.counts(receiver) for receiver in (1, 2)) == 1


def test_loss_that_repair_mends_makes_nobody_slow() -> None:
    room = Room()
    room.go_on(10, {1: 1.0, 2: 0.93, 3: 1.0})
    assert room.slow == []
    assert room.watch.counts(2)


def test_one_that_was_cut_off_for_a_moment_counts_again_and_is_not_slow() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0, 3: 1.0})
    room.go_on(1, {1: 1.0, 2: 1.0, 3: 0.0})
    assert not room.watch.counts(3)
    room.go_on(3, {1: 1.0, 2: 1.0, 3: 1.0})
    assert room.watch.counts(3)
    assert room.slow == []


def test_one_that_says_nothing_while_others_speak_is_not_waited_for() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0, 3: 1.0})
    room.go_on(3.5, {1: 1.0, 2: 1.0, 3: None})
    ((_, verdict),) = room.verdicts
    assert verdict == Verdict(3, True, "it says nothing for 3 s")


def test_of_two_machines_the_one_that_speaks_does_not_wait_for_the_other() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0})
    room.go_on(4, {1: 1.0, 2: None})
    assert room.slow == [2]


def test_a_room_that_is_cut_off_as_a_whole_has_no_slow_machine() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0, 3: 1.0})
    room.go_on(10, {1: None, 2: None, 3: None})
    assert room.verdicts == []


def test_one_that_was_slow_and_keeps_up_counts_again_the_second_time_after_twice_as_long() -> None:
    room = Room()
    room.go_on(8, {1: 1.0, 2: 1.0, 3: 0.1})
    room.go_on(9, {1: 1.0, 2: 1.0, 3: 1.0})
    assert [verdict.is_slow for _, verdict in room.verdicts] == [True, False]
    back = room.now
    room.go_on(6, {1: 1.0, 2: 1.0, 3: 0.1})
    room.go_on(20, {1: 1.0, 2: 1.0, 3: 1.0})
    assert [verdict.is_slow for _, verdict in room.verdicts] == [True, False, True, False]
    assert room.verdicts[3][0] - room.verdicts[2][0] >= 8
    assert room.verdicts[2][0] > back


@pytest.mark.parametrize(("holdup", "named"), [(Holdup.DISK, "its disk: "), (Holdup.PROCESSOR, "its processor: ")])
def test_one_whose_memory_is_full_is_slow_by_what_holds_it_up(holdup: Holdup, named: str) -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0, 3: 1.0})
    room.go_on(0.5, {1: 1.0, 2: 1.0, 3: 1.0}, full=(3,))
    assert not room.watch.counts(3)
    room.go_on(6, {1: 1.0, 2: 1.0, 3: 0.4}, full=(3,), holdup=holdup)
    assert room.slow == [3]
    assert room.verdicts[0][1].reason.startswith(named)


def test_one_whose_memory_is_full_and_that_keeps_up_all_the_same_counts_again_for_half_a_minute() -> None:
    room = Room()
    room.go_on(2, {1: 1.0, 2: 1.0, 3: 1.0})
    room.go_on(6, {1: 1.0, 2: 1.0, 3: 0.97}, full=(3,))
    assert room.slow == [] and room.watch.counts(3)
    room.go_on(20, {1: 1.0, 2: 1.0, 3: 0.97}, full=(3,))
    assert room.watch.counts(3)


def test_a_floor_alone_says_who_is_slow() -> None:
    room = Room(floor_bps=30e6)
    room.go_on(10, {1: 1.0, 2: 0.5, 3: 0.2})
    assert room.slow == [3]
    assert room.watch.counts(2)


def test_under_a_floor_one_that_comes_back_from_a_suspicion_is_judged_by_what_it_takes_from_then_on() -> None:
    room = Room(floor_bps=30e6)
    for _ in range(3):
        room.go_on(0.75, {1: 1.0, 2: 1.0, 3: 0.1})
        room.go_on(2.5, {1: 1.0, 2: 1.0, 3: 1.0})
        assert room.watch.counts(3)
    assert room.slow == []


def test_a_sender_that_is_below_the_floor_itself_makes_nobody_slow() -> None:
    room = Room(floor_bps=30e6)
    room.go_on(10, {1: 1.0, 2: 1.0}, uncounted_slow_down=0.1)
    assert room.slow == []


def test_who_waits_for_all_suspects_nobody() -> None:
    room = Room(policy=SlowPolicy.WAIT)
    room.go_on(10, {1: 1.0, 2: 0.1, 3: 1.0})
    assert room.verdicts == [] and room.watch.counts(2)
    assert room.watch.next_look() == float("inf")


def test_slow_machines_that_are_left_alone_are_compared_with_each_other() -> None:
    room = Room()
    room.go_on(8, {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.1, 5: 0.1})
    assert sorted(room.slow) == [4, 5]
    for receiver in (1, 2, 3):
        room.watch.forget(receiver)
    room.watch.pardon_all(room.now)
    room.go_on(10, {4: 0.5, 5: 0.5})
    assert sorted(room.slow) == [4, 5]
    assert room.watch.counts(4) and room.watch.counts(5)


LENGTHS = (288_000,) * 40
LINE_BPS = 1.2e7


def a_cast(**more: object) -> Scenario:
    """11 MB at 12 Mbit/s: 8 s."""
    return Scenario(
        3, stored_lengths=LENGTHS, max_bitrate_bps=LINE_BPS, silence_timeout_s=30, sender_timeout_s=60, **more
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone_s() -> float:
    """What two machines take by themselves."""
    return max(simulate(a_cast(receivers=2)).finished_at.values())


def test_the_others_lose_nothing_by_one_at_a_third_of_the_rate_and_it_gets_all(alone_s: float) -> None:
    scenario = a_cast(receivers=3, ports={2: Narrow(4e6, 64 << 10)}, slow=SlowPolicy.DEMOTE)
    outcome = simulate(scenario)
    assert broken_promises(scenario, outcome) == []
    assert len(outcome.held[2]) == len(LENGTHS)
    others = max(outcome.finished_at[0], outcome.finished_at[1])
    assert others < 1.02 * alone_s
    assert outcome.finished_at[2] > others


def test_a_slow_machine_fails_by_its_reason_where_that_is_the_policy() -> None:
    outcome = simulate(a_cast(receivers=3, ports={2: Narrow(2e6, 64 << 10)}, slow=SlowPolicy.FAIL))
    assert outcome.failed[2].startswith("too slow: it takes in ")
    assert set(outcome.finished_at) == {0, 1}


def test_a_machine_that_is_away_for_some_seconds_delays_nobody_and_gets_all(alone_s: float) -> None:
    scenario = a_cast(receivers=3, away={2: (1.0, 7.0)}, slow=SlowPolicy.DEMOTE)
    outcome = simulate(scenario)
    assert broken_promises(scenario, outcome) == []
    assert len(outcome.held[2]) == len(LENGTHS)
    assert max(outcome.finished_at[0], outcome.finished_at[1]) < 1.02 * alone_s


def test_one_that_joins_when_half_is_sent_costs_no_more_than_what_it_missed() -> None:
    without = simulate(a_cast(receivers=2, loss=0.01))
    late_at = max(without.finished_at.values()) / 2
    sent_then = next(sent for at, _, sent, _ in without.rates if at >= late_at)
    scenario = a_cast(receivers=3, loss=0.01, joins_at={2: late_at})
    outcome = simulate(scenario)
    assert broken_promises(scenario, outcome) == []
    assert len(outcome.held[2]) == len(LENGTHS)
    assert outcome.sent_packets - without.sent_packets < 1.02 * sent_then
