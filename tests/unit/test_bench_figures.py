"""The lines of `vm-lab/bench`."""

from dataclasses import replace
from typing import Any

from classroom.figures import Failure, Figure, lines_of


def a_figure(value: float, goal: float = 100.0, **fields: Any) -> Figure:
    return replace(Figure("rate", value, "/s", goal, is_least=True), **fields)


def test_runs_of_one_name_become_one_line_of_medians_with_their_spread() -> None:
    (line,) = lines_of([a_figure(90), a_figure(1500, peer="dnsmasq"), a_figure(101)])
    assert line.value == "101/s (90 to 1,500)"
    assert line.is_reached


def test_goal_that_a_peer_sets_is_the_median_of_what_it_did() -> None:
    (line,) = lines_of(
        [
            a_figure(2.0, 1.0, is_least=False, peer="dnsmasq 1", digits=1),
            a_figure(2.1, 9.0, is_least=False, peer="dnsmasq 9", digits=1),
            a_figure(2.2, 2.5, is_least=False, peer="dnsmasq 2.5", digits=1),
        ]
    )
    assert line.goal == "at most 2.5/s (dnsmasq 2.5)"
    assert line.is_reached
    assert str(line).endswith("ok")


def test_figure_below_its_least_or_above_its_most_is_short() -> None:
    least, most = lines_of([a_figure(99.9), a_figure(100.1, name="delay", is_least=False)])
    assert not least.is_reached and not most.is_reached
    assert str(least).endswith("short")


def test_what_must_hold_in_every_run_is_short_when_one_run_is() -> None:
    runs = [a_figure(100, each_run=True), a_figure(99, each_run=True), a_figure(100, each_run=True)]
    (line,) = lines_of(runs)
    assert line.value == "100/s (99 to 100)"
    assert not line.is_reached
    (line,) = lines_of([runs[0], runs[0]])
    assert line.is_reached


def test_what_could_not_be_measured_in_one_run_is_short_and_says_why() -> None:
    (line,) = lines_of([a_figure(101), Failure("rate", "its sender did not end"), a_figure(102)])
    assert not line.is_reached
    assert (line.value, line.goal, line.runs) == ("failed, 1 of 3", "its sender did not end", (101, 102))
