"""Sizes and times in words, for the pages. Pure, but for the ages: they are of now."""

import time

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")

LONGEST_S = 1000 * 3600.0
"""A duration from here on is told as such: what has a left time like that is not going on."""


def size(count: float) -> str:
    """Decimal units, three digits: 1.23 GB."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def memory(count: float) -> str:
    """Main memory, as it is sold: powers of two."""
    return f"{count / 2**30:.3g} GiB"


def megabits(bytes_per_s: float) -> str:
    """A rate as networks are measured."""
    return f"{bytes_per_s * 8 / 1e6:,.0f} Mbit/s"


def duration(seconds: float) -> str:
    """4.2 s, 3:07, 1:02:33; never an error, whatever the number."""
    if not seconds < LONGEST_S:
        return "over 1000 h"
    if seconds < 59.95:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(then_s: float) -> str:
    """How long ago a Unix time was; coarse, so that a page does not change with every second."""
    seconds = max(0.0, time.time() - then_s)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"


def clock_time(then_s: float) -> str:
    """A Unix time as local hours, minutes and seconds."""
    return time.strftime("%H:%M:%S", time.localtime(then_s))


def date_time(then_s: float) -> str:
    """A Unix time as local day and time."""
    return time.strftime("%d %b %H:%M:%S", time.localtime(then_s))
