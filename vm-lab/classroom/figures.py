"""Figures of a bench: what was measured in each run, what the goal is, and one line that says whether it is reached."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured in one run."""

    name: str
    value: float
    unit: str
    """As it follows the number: "/s", " ms"."""
    goal: float
    is_least: bool
    """Whether the goal is the least that is good, or the most."""
    peer: str = ""
    """Whose figure the goal comes from, and what that was; empty: the goal is a number of our own."""
    digits: int = 0
    """Behind the point."""
    each_run: bool = False
    """The goal must be reached in every run: what other work on the machine does not excuse."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One quantity that could not be measured in one run."""

    name: str
    reason: str
    """One line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity over all runs: medians, since other work on the machine makes single runs slow."""

    name: str
    value: str
    goal: str
    is_reached: bool
    runs: tuple[float, ...]
    """What `value` is the median of."""

    def __str__(self) -> str:
        return f"{self.name:<46} {self.value:<32} {self.goal:<44} {'ok' if self.is_reached else 'short'}"


def lines_of(figures: Iterable[Figure | Failure]) -> list[Line]:
    """A line for each name, in the order in which the names came. What failed in one run is short."""
    by_name: dict[str, list[Figure | Failure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    return [_line(runs) for runs in by_name.values()]


def _is_reached(figure: Figure) -> bool:
    return figure.value >= figure.goal if figure.is_least else figure.value <= figure.goal


def _line(all_runs: Sequence[Figure | Failure]) -> Line:
    runs = [run for run in all_runs if isinstance(run, Figure)]
    failures = [run for run in all_runs if isinstance(run, Failure)]
    if failures:
        share = f"failed, {len(failures)} of {len(all_runs)}"
        return Line(failures[0].name, share, failures[0].reason, False, tuple(run.value for run in runs))
    one = runs[0]
    values = [run.value for run in runs]
    value, goal = median(values), median([run.goal for run in runs])

    def text(number: float) -> str:
        return f"{number:,.{one.digits}f}"

    spread = f" ({text(min(values))} to {text(max(values))})" if len(runs) > 1 else ""
    peer = sorted(runs, key=lambda run: run.goal)[len(runs) // 2].peer
    return Line(
        one.name,
        text(value) + one.unit + spread,
        f"{'at least' if one.is_least else 'at most'} {text(goal)}{one.unit}" + (f" ({peer})" if peer else ""),
        all(map(_is_reached, runs)) if one.each_run else _is_reached(replace(one, value=value, goal=goal)),
        tuple(values),
    )
