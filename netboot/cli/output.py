"""How the command line writes: units, tables, progress. Text of machines is never markup."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from netboot.bootlog.words import shown

PLAIN_WIDTH = 200
"""Of a table that goes to a file or a pipe."""

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")

LONGEST_S = 1000 * 3600.0
"""A duration from here on is told as such: what has a left time like that is not going on."""


def console() -> Console:
    """Standard output; plain text in wide lines when it is not a terminal."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(highlight=False, emoji=False, width=wide)  # :cd: and :ab: are bytes of a MAC


def bytes_text(count: float) -> str:
    """Decimal units, three digits: 1.23 GB."""
    for unit in _UNITS:
        if abs(count) < 999.5 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def memory_text(count: float) -> str:
    """Main memory, as it is sold: powers of two."""
    return f"{count / 2**30:.3g} GiB"


def rate_text(bytes_per_s: float) -> str:
    """As networks are measured: Mbit/s."""
    return f"{bytes_per_s * 8 / 1e6:,.0f} Mbit/s" if bytes_per_s else ""


def duration_text(seconds: float) -> str:
    """4.2 s, 3:07, 1:02:33; never an error, whatever the number."""
    if not seconds < LONGEST_S:
        return "over 1000 h"
    if seconds < 59.95:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age_text(then_s: float | None) -> str:
    """How long ago a Unix time was."""
    if then_s is None:
        return ""
    seconds = max(0.0, time.time() - then_s)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table of plain cells: labels of disks and words of strangers stand in them."""
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(shown(str(cell))) for cell in row))
    return table


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while bytes are worked on: call it with (done, total)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with shown:
        task = shown.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield tell


def print_json(value: Any) -> None:
    """For programs: the same that the API says."""
    import json

    console().print(json.dumps(value, indent=2), markup=False, soft_wrap=True)
