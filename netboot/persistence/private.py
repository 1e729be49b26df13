"""The data directory is its owner's alone: images hold whole disks, with the secrets that are on them."""

from pathlib import Path

PRIVATE_UMASK = 0o077
"""For every process that writes in the data directory."""

_SECRET = ("images", "keys")
_OURS = {*_SECRET, "agent", "boot", "boot-packages", "serve.lock"}
_OUR_DATABASES = ("roomcast.db", "leases.db")
"""Their logs, copies and damaged files have names that begin so."""


def make_private(directory: Path) -> None:
    """Make a data directory, or close one that an earlier version left open to others. Raises OSError.

    One that holds files of others too keeps its mode; then only what is secret in it is closed.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {entry.name for entry in directory.iterdir()}
    ours = all(name in _OURS or name.startswith(_OUR_DATABASES) for name in names)
    closed = [directory] if ours else [directory / name for name in _SECRET if name in names]
    for place in closed:
        if place.stat().st_mode & 0o077:
            place.chmod(0o700)
