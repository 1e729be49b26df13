"""One program at a time writes in a data directory."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from netboot.errors import ServiceError
from netboot.persistence.private import make_private


@contextlib.contextmanager
def only_one_uses(data: Path) -> Iterator[None]:
    """Hold a data directory, which is made when missing. Raises ServiceError when another program holds it."""
    try:
        make_private(data)
        descriptor = os.open(data / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError(f"{data}: {error.strerror}; run it with sudo, or name another --data") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServiceError(
                f"another `roomcast serve` uses {data} already: stop it, or name another --data"
            ) from error
        yield
    finally:
        os.close(descriptor)
