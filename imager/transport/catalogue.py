"""What a file cast offers: name, size, hashes, and where its packets go. Given by TCP, one connection a receiver.

On the wire: four bytes of length, a JSON object (imager.wire.messages.encode of Catalogue), then one BLAKE3 hash of 32
bytes for each chunk.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from imager.errors import CastError, MessageError
from imager.wire import messages
from imager.wire.messages import CastAddress

HASH_BYTES = 32
_MAX_HEADER_BYTES = 1 << 16
_TIMEOUT_S = 10
_WHOLE_S = 60
"""For the whole of a catalogue."""
_READ_BYTES = 1 << 18
_MAX_CHUNKS = 1 << 22
"""4 TiB in chunks of 1 MiB; the hashes of so many are 128 MiB."""
_CHUNK_BYTES_RANGE = range(1, (1 << 30) + 1)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One file on offer."""

    name: str
    file_bytes: int
    chunk_bytes: int
    """Length of every chunk but the last."""
    root: str
    """Hexadecimal: see root_hash."""
    cast: CastAddress
    """For the receiver that fetched it alone. Its `sender` does not count: that is who gave the catalogue."""


def stored_lengths(file_bytes: int, chunk_bytes: int) -> list[int]:
    """Bytes of each chunk of a file."""
    whole, rest = divmod(file_bytes, chunk_bytes)
    return [chunk_bytes] * whole + [rest] * (rest > 0)


def root_hash(file_bytes: int, chunk_hashes: Sequence[bytes]) -> str:
    """The hash of the whole: BLAKE3 of the size (8 bytes, network order) and the chunks' hashes."""
    return blake3(file_bytes.to_bytes(8, "big") + b"".join(chunk_hashes)).hexdigest()


def fetch_catalogue(address: str, port: int, within_s: float = _WHOLE_S) -> tuple[Catalogue, list[bytes]]:
    """The catalogue of a sender and its chunks' hashes.

    Raises CastError when it does not agree, or cannot be had within `within_s`, however slowly the sender goes on.
    """
    end = time.monotonic() + within_s
    try:
        with socket.create_connection((address, port), min(within_s, _TIMEOUT_S)) as connection:
            length = int.from_bytes(_read(connection, 4, end), "big")
            if length > _MAX_HEADER_BYTES:
                raise CastError(f"{address} port {port} is not a sender of a file: a header of {length} bytes")
            catalogue = messages.decode(Catalogue, _read(connection, length, end))
            if catalogue.chunk_bytes not in _CHUNK_BYTES_RANGE or catalogue.file_bytes < 0:
                raise CastError(f"{address} offers a file of impossible size")
            count = -(-catalogue.file_bytes // catalogue.chunk_bytes)
            if count > _MAX_CHUNKS:
                raise CastError(f"{address} offers a file of {count} chunks; at most {_MAX_CHUNKS} can be received")
            data = _read(connection, count * HASH_BYTES, end)
    except MessageError as error:
        raise CastError(f"{address} port {port} is not a sender of a file: {error}") from error
    except OSError as error:
        raise CastError(f"cannot fetch the catalogue from {address}, TCP port {port}: {error}") from error
    hashes = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
    if root_hash(catalogue.file_bytes, hashes) != catalogue.root:
        raise CastError(f"the catalogue of {address} is damaged")
    return catalogue, hashes


def _read(connection: socket.socket, count: int, end: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(min(left, _TIMEOUT_S))
        part = connection.recv(min(count - len(data), _READ_BYTES))
        if not part:
            raise CastError("the sender closed the connection in the middle of its catalogue")
        data += part
    return bytes(data)


class CatalogueServer:
    """Gives the catalogue to whoever connects, each with a receiver number of its own, from threads of its own."""

    def __init__(self, address: str, offer: Callable[[str], Catalogue], hashes: Sequence[bytes]) -> None:
        """`offer(peer address)` makes the catalogue for a new receiver; it is called from several threads."""
        self._offer = offer
        self._hashes = b"".join(hashes)
        self._listener = socket.create_server((address, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="catalogue", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # close() ends it
            while True:
                connection, peer = self._listener.accept()
                threading.Thread(target=self._give, args=(connection, peer[0]), daemon=True).start()

    def _give(self, connection: socket.socket, peer: str) -> None:
        with connection, contextlib.suppress(OSError, CastError):  # CastError: none can be admitted any more
            connection.settimeout(_TIMEOUT_S)
            header = messages.encode(self._offer(peer))
            connection.sendall(len(header).to_bytes(4, "big") + header + self._hashes)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
