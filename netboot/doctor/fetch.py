"""Fetches a file as a machine would, by tftpy's client or httpx, which are not ours. Bounded in bytes and time."""

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import tftpy

LARGEST_FILE_BYTES = 512 << 20
LONGEST_FETCH_S = 30.0
SILENCE_S = 2.0
TRIES = 3
WHOLE_BLOCK_BYTES = 1468
"""What firmware asks for: the packet fills an Ethernet frame."""
SMALL_BLOCK_BYTES = 512
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file."""

    size: int
    digest: bytes
    """SHA-256."""
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        return self.size / max(self.seconds, 1e-6)


@dataclass(frozen=True, slots=True)
class NotFetched:
    """Nothing, or not all of it."""

    reason: str
    """May hold a stranger's text."""
    size: int
    """Bytes that came."""


class _TooMuch(Exception):
    """A server that sends without end, or too slowly."""


class _Sink:
    """Takes bytes, keeps their number and hash."""

    def __init__(self) -> None:
        self.size = 0
        self.began = time.monotonic()
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self._hash.update(data)
        if self.size > LARGEST_FILE_BYTES:
            raise _TooMuch(f"more than {LARGEST_FILE_BYTES >> 20} MiB")
        self.check_time()
        return len(data)

    def check_time(self, _packet: object = None) -> None:
        if time.monotonic() - self.began > LONGEST_FETCH_S:
            raise _TooMuch(f"not whole after {LONGEST_FETCH_S:.0f} s")

    def fetched(self) -> Fetched:
        return Fetched(self.size, self._hash.digest(), time.monotonic() - self.began)


def fetch_tftp(server: str, name: str, block_bytes: int = WHOLE_BLOCK_BYTES) -> Fetched | NotFetched:
    """By TFTP, in octet mode with `blksize` and `tsize`."""
    logging.getLogger("tftpy").setLevel(logging.CRITICAL)  # it tells by its error what it logs
    sink = _Sink()
    try:
        client = tftpy.TftpClient(server, 69, {"blksize": block_bytes, "tsize": 0})
        client.download(name, sink, packethook=sink.check_time, timeout=SILENCE_S, retries=TRIES)
    except Exception as error:  # of many kinds: struct.error and UnicodeError on packets that are none, too
        return NotFetched(str(error) or type(error).__name__, sink.size)
    return sink.fetched()


def fetch_http(url: str) -> Fetched | NotFetched:
    """By HTTP, without the environment's proxies: machines have none either."""
    sink = _Sink()
    try:
        with (
            httpx.Client(trust_env=False, timeout=SILENCE_S * TRIES, follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                return NotFetched(f"status {response.status_code}", 0)
            for part in response.iter_raw(_READ_BYTES):
                sink.write(part)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, _TooMuch) as error:
        return NotFetched(str(error) or type(error).__name__, sink.size)
    return sink.fetched()


def read_expected(path: Path) -> Fetched | None:
    """Size and hash of a file of this machine; None when it cannot be read."""
    sink = hashlib.sha256()
    size = 0
    began = time.monotonic()
    try:
        with path.open("rb") as file:
            while part := file.read(_READ_BYTES):
                size += len(part)
                sink.update(part)
    except OSError:
        return None
    return Fetched(size, sink.digest(), time.monotonic() - began)
