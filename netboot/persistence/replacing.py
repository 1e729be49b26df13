"""One file takes the place of another, whole or not at all, whenever the power fails."""

import os
import time
from pathlib import Path

DATABASE_PARTS = ("", "-wal", "-shm")
"""What SQLite keeps of one database: endings of its name."""


def put_aside(path: Path) -> str:
    """Keep a damaged database under another name, with its log: no other file may take that for its own.

    What it is called now; empty when there was none.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    was_there = path.exists()
    for end in DATABASE_PARTS:
        part = path.with_name(path.name + end)
        if part.exists():
            part.replace(aside.with_name(aside.name + end))
    return aside.name if was_there else ""


def put_in_place(fresh: Path, target: Path) -> None:
    """`target` is what it was or what `fresh` is; when this returns, it is `fresh` and on the disk."""
    _sync(fresh)
    fresh.replace(target)
    _sync(target.parent)


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
