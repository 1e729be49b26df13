"""How fast a cast is sent: found by what arrives, not by loss alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from imager.multicast.events import Limit, RateReason
from imager.multicast.pace import FRAME_BYTES
from imager.multicast.rate import START_BPS, RateControl
from imager.wire.packets import Report
from imager.wire.session import Holdup

BITS = FRAME_BYTES * 8
Loses = Callable[[float, int], int]
"""How many of so many packets are lost, sent at such a rate."""


def a_report(heard: int, received: int, lost: int) -> Report:
    return Report(heard, received, lost, dropped=0, repairs=0, chunks_done=0, slots=64, free_slots=64, holdup=Holdup(0))


class Line:
    """Some receivers that report every 40 ms what they got of what was sent."""

    def __init__(self, control: RateControl, receivers: dict[int, Loses]) -> None:
        self.control = control
        self.receivers = receivers
        self.now = 0.0
        self.sequence = 0
        self.counts = {receiver: [0, 0] for receiver in receivers}
        self.rates: list[float] = []

    def run(self, seconds: float, line_bps: float = 1e10) -> "Line":
        for _ in range(round(seconds / 0.04)):
            offered = 0
            for _ in range(8):
                packets = max(1, round(min(self.control.rate_bps or line_bps, line_bps) * 0.005 / BITS))
                offered += packets
                self.sequence += packets
                self.now += 0.005
                self.control.sent(self.sequence, self.now)
                self.rates.append(self.control.rate_bps or line_bps)
            for receiver, loses in self.receivers.items():
                lost = loses(offered * BITS / 0.04, offered)
                self.counts[receiver][0] += offered - lost
                self.counts[receiver][1] += lost
                self.tell(receiver)
        return self

    def tell(self, receiver: int) -> None:
        received, lost = self.counts[receiver]
        self.control.report(receiver, a_report(self.sequence - 1, received, lost), self.sequence, self.now)


def a_port(bps: float) -> Loses:
    return lambda rate, offered: max(0, offered - round(bps * 0.04 / BITS)) if rate > bps else 0


def by_chance(share: float, seed: int) -> Loses:
    chance = np.random.default_rng(seed)
    return lambda _rate, offered: int(chance.binomial(offered, share))


@pytest.mark.parametrize("bps", [2e7, 2e8, 9e8])
def test_the_rate_settles_below_what_a_port_passes(bps: float) -> None:
    line = Line(RateControl(0), {1: a_port(bps)}).run(10)
    settled = line.rates[len(line.rates) // 5 :]
    assert sum(settled) / len(settled) == pytest.approx(bps, rel=0.03)
    assert max(settled) < bps * 1.3


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.3])
def test_loss_that_a_lower_rate_does_not_mend_is_borne(share: float) -> None:
    line = Line(RateControl(0), {1: by_chance(share, 1)}).run(2, line_bps=1e9)
    second = line.rates[len(line.rates) // 2 :]
    assert min(second) >= 1e9


def test_a_room_whose_loss_is_the_networks_is_tried_once_and_not_for_each_machine() -> None:
    line = Line(RateControl(0), {number: by_chance(0.01, number) for number in range(30)}).run(1.2, line_bps=3e8)
    assert sum(min(rate, 3e8) for rate in line.rates) / len(line.rates) > 0.9 * 3e8


def test_a_port_behind_a_lossy_line_is_not_taken_for_the_lines_loss() -> None:
    chance, port = by_chance(0.05, 3), a_port(1e8)
    both = Line(RateControl(0), {1: lambda rate, offered: max(port(rate, offered), chance(rate, offered))}).run(8)
    settled = both.rates[len(both.rates) // 2 :]
    assert sum(settled) / len(settled) < 1.3e8
    assert sum(settled) / len(settled) > 0.8e8


def test_a_port_that_becomes_slower_and_fast_again_is_followed() -> None:
    speed = {"bps": 8e8}
    line = Line(RateControl(0), {1: lambda rate, offered: a_port(speed["bps"])(rate, offered)}).run(3)
    speed["bps"] = 1e8
    line.run(3)
    assert line.control.rate_bps == pytest.approx(1e8, rel=0.1)
    speed["bps"] = 8e8
    line.run(6)
    assert line.control.rate_bps > 6e8


def test_what_was_missed_in_one_turn_of_another_program_is_soon_forgotten() -> None:
    lost = {"now": False}
    line = Line(RateControl(0), {1: lambda rate, offered: offered // 2 if lost["now"] else a_port(1e9)(rate, offered)})
    line.run(3)
    before = line.control.rate_bps
    lost["now"] = True
    line.run(0.04)
    lost["now"] = False
    line.run(0.4)
    assert line.control.rate_bps > 0.9 * before


def test_a_receiver_that_was_cut_off_does_not_slow_the_others() -> None:
    line = Line(RateControl(0), {1: lambda _rate, _offered: 0, 2: lambda _rate, _offered: 0}).run(1, line_bps=1e9)
    del line.receivers[2]
    line.run(1, line_bps=1e9)
    before = line.control.rate_bps
    line.counts[2][1] = line.counts[1][0] - line.counts[2][0]
    line.tell(2)
    assert line.control.rate_bps == before


def test_a_receiver_that_falls_silent_on_trial_does_not_hold_the_rate() -> None:
    line = Line(RateControl(0), {1: a_port(1e8), 2: lambda _rate, _offered: 0}).run(0.12, line_bps=1e9)
    assert line.control.rate_bps < 2e8
    del line.receivers[1]
    line.run(6, line_bps=1e9)
    assert (line.control.rate_bps or 1e10) > 9e8


def test_the_rate_never_exceeds_the_operators_limit_which_may_change() -> None:
    line = Line(RateControl(5e8), {1: lambda _rate, _offered: 0}).run(1)
    assert max(line.rates) == 5e8
    line.control.limit(2e8)
    assert line.control.rate_bps == 2e8


def test_the_rate_doubles_only_as_receivers_answer() -> None:
    control = RateControl(0)
    for step in range(100):
        control.sent(1000 * step, step * 0.01)
    assert control.rate_bps == START_BPS


def test_who_only_joined_has_not_answered() -> None:
    control = RateControl(0)
    control.sent(100, 0.0)
    control.report(1, a_report(0, 0, 0), 100, 0.1)
    control.sent(200, 0.2)
    assert control.rate_bps == START_BPS


def test_a_full_memory_slows_the_sending_to_what_the_disk_takes_and_says_whose_disk() -> None:
    control = RateControl(0, 1e9, chunk_packets=200)
    told = a_report(0, 0, 0)
    for step in range(50):
        now, sequence = step * 0.1, step * 8000
        control.sent(sequence, now)
        chunks = step * 2  # of 200 packets, ten times a second
        told = replace(told, heard=sequence, received=sequence, chunks_done=chunks, free_slots=8, holdup=Holdup.DISK)
        control.report(3, told, sequence, now)
        control.report(4, a_report(sequence, sequence, 0), sequence, now)
    written = 2 * 200 * BITS / 0.1
    assert control.rate_bps == pytest.approx(written, rel=0.05)
    assert control.reason(5.0) == RateReason(Limit.DISK, 3, 1, 2)
    control.report(3, replace(told, received=500_000, free_slots=40, holdup=Holdup.NONE), 500_000, 5.1)
    assert (control.rate_bps or 1e10) >= 1e9


def a_deep_buffer(control: RateControl, seconds: float, bps: float, receiver: int = 1, now: float = 0.0) -> list[float]:
    """A receiver that takes so much of what was sent, a report every 40 ms, and loses nothing; returns the rates."""
    sent = taken = 0.0
    rates = []
    for _ in range(round(seconds / 0.04)):
        for _ in range(8):
            now += 0.005
            sent += (control.rate_bps or 1e10) * 0.005 / BITS
            control.sent(int(sent), now)
        taken = min(sent, taken + bps * 0.04 / BITS)
        control.report(receiver, a_report(int(taken) - 1, int(taken), 0), int(sent), now)
        rates.append(control.rate_bps)
    return rates


def test_a_deep_buffer_that_only_fills_and_loses_nothing_is_not_waited_for() -> None:
    rates = a_deep_buffer(RateControl(0), 10, 2e7)
    assert min(rates[:10]) < 2e7
    late = rates[len(rates) // 2 :]
    assert 0.8 * 2e7 < sum(late) / len(late) < 1.1 * 2e7


def test_a_deep_buffer_of_one_that_no_longer_counts_holds_nothing_back() -> None:
    control = RateControl(0)
    a_deep_buffer(control, 2, 2e7)
    control.forget(1)
    line = Line(control, {2: lambda _rate, _offered: 0})
    line.sequence, line.now = 10**6, 2.0
    line.run(2, line_bps=1e9)
    assert (control.rate_bps or 1e10) > 9e8


def test_memory_that_is_full_of_chunks_in_want_of_repair_slows_nothing() -> None:
    control = RateControl(0, 1e9, chunk_packets=200)
    for step in range(20):
        control.sent(step * 8000, step * 0.1)
        control.report(1, replace(a_report(step * 8000, step * 8000, 0), free_slots=0), step * 8000, step * 0.1)
    assert (control.rate_bps or 1e10) >= 1e9


@pytest.mark.parametrize(
    ("limit", "line", "loses", "reason"),
    [
        (0, 1e9, a_port(2e8), RateReason(Limit.LOSS, 1, 1, 2)),
        (10**8, 1e9, a_port(1e9), RateReason(Limit.OPERATOR, None, 0, 2)),
        (0, 1e9, lambda _rate, _offered: 0, RateReason(Limit.SENDER, None, 0, 2)),
    ],
    ids=["loss", "operator", "sender"],
)
def test_the_reason_of_the_rate_is_told(limit: int, line: float, loses: Loses, reason: RateReason) -> None:
    told = Line(RateControl(limit), {1: loses, 2: lambda _rate, _offered: 0}).run(3, line_bps=line)
    assert told.control.reason(told.now) == reason


def test_a_receiver_that_seldom_speaks_and_always_loses_is_believed_the_second_time() -> None:
    """Seen: a lone block was sent again every 0.4 s to a full buffer, and each report was taken for an outage's."""
    control = RateControl(0)
    rates = []
    for step in range(6):
        now, sequence = step * 0.4, 200 * step
        for _ in range(5):
            sequence, now = sequence + 40, now + 0.001
            control.sent(sequence, now)
        control.report(1, a_report(sequence - 1, sequence // 8, sequence - sequence // 8), sequence, now + 0.3)
        rates.append(control.rate_bps)
    assert min(rates) < START_BPS / 2
