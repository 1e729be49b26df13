"""Locks of the image store: they end with the process that holds them, so a dead writer is told from a living one."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imager.image.ownership import belong_to_parent

LOCK_NAME = "lock"
"""In the directory of each writer."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path` against other writers, of this process and of others."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        belong_to_parent(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_directory(directory: Path) -> int:
    """Show that `directory` has a living writer. The lock goes with the descriptor that is returned."""
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    belong_to_parent(directory / LOCK_NAME)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def remove_dead(writing: Path) -> None:
    """Remove what writers left in `writing` that were killed. Hold the writers' lock when calling it."""
    for directory in writing.iterdir():
        try:
            descriptor = os.open(directory / LOCK_NAME, os.O_RDWR)
        except FileNotFoundError:
            shutil.rmtree(directory, ignore_errors=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        shutil.rmtree(directory, ignore_errors=True)
