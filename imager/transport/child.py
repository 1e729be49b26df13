"""A child process that runs one module of this package, joined by a connection.

Not multiprocessing's spawn: that imports the parent's main program again, which for a command line tool takes longer
than the work, and fork is not for a parent with threads.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A running `python -m module FD [FD...]`: the first descriptor is its end of `connection`, then `descriptors`."""

    def __init__(self, module: str, descriptors: Sequence[int] = ()) -> None:
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        passed = [theirs.fileno(), *descriptors]
        # what the parent can import the child can: a source's class travels by its module's name
        search = os.pathsep.join([*filter(None, sys.path), str(_PACKAGE_ROOT)])
        try:
            self.process = subprocess.Popen(
                # -P: what happens to lie in the working directory must not be imported
                [sys.executable, "-P", "-m", module, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                pass_fds=passed,
                # numpy's linear algebra, which we do not use, starts its threads at import
                env={**os.environ, "PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1"},
                # a Ctrl-C at the terminal is the parent's to handle: the child ends with its connection
                process_group=0,
            )
        finally:
            theirs.close()

    def close(self, wait_s: float = 5) -> None:
        """Close the connection, which ends the child, and wait; a child that does not end is killed."""
        self.connection.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(wait_s)


def connection_of(arguments: Sequence[str]) -> tuple[Connection, list[int]]:
    """In the child: its connection and the further descriptors, from its command line."""
    first, *rest = (int(word) for word in arguments)
    return Connection(first), rest
