"""A hunt by hypothesis: series of packets of the right shape, each series for a target without a past."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from shapes import series

ROUND = 500
"""Series that one search of hypothesis tries, before the next begins with a seed of its own."""


@dataclass(frozen=True, slots=True)
class Hunted:
    """What was tried, and what raised: the shortest series that hypothesis found, empty when nothing did."""

    packets: int
    raising: tuple[bytes, ...] = ()
    error: Exception | None = None


def search(name: str, fresh: Callable[[], Callable[[bytes], None]], number: str, tries: int, end: float) -> Hunted:
    """So many series, fewer when time.monotonic() comes to `end`.

    The same number tries the same ones, while the same modules are loaded.
    """
    tried = 0
    raising: tuple[bytes, ...] = ()
    failure: Exception | None = None

    def try_series(packets: list[bytes]) -> None:
        nonlocal tried, raising, failure
        if failure is None and time.monotonic() >= end:
            return
        target = fresh()
        tried += len(packets)
        try:
            for packet in packets:
                target(packet)
        except Exception as error:
            raising, failure = tuple(packets), error
            raise

    searching = settings(
        max_examples=tries, deadline=None, database=None, print_blob=False,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )(given(series(name))(try_series))  # fmt: skip
    try:
        seed(number)(searching)()
    except Exception:
        if failure is None:
            raise  # of hypothesis itself
    return Hunted(tried, raising, failure)


def hunt(name: str, fresh: Callable[[], Callable[[bytes], None]], seconds: float, number: int) -> Hunted:
    """Search for so long, or until something raises."""
    end = time.monotonic() + seconds
    tried = rounds = 0
    while True:
        found = search(name, fresh, f"{number} {rounds}", ROUND, end)
        tried, rounds = tried + found.packets, rounds + 1
        if found.error is not None or time.monotonic() >= end:
            return Hunted(tried, found.raising, found.error)
