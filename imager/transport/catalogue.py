"""What a file cast offers: name, size, hashes, and where its packets go. Given by TCP, one connection a receiver.

On the wire: four bytes of length, a JSON object (imager.wire.messages.encode of Catalogue), then one BLAKE3 hash of 32
bytes for each chunk.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from imager.errors import CastError, MessageError
from imager.wire import messages
from imager.wire.messages import CastAddress

HASH_BYTES = 32
_MAX_HEADER_BYTES = 1 << 16
_TIMEOUT_S = 10
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
    """`sender` is empty: it is the address that gave the catalogue."""


def stored_lengths(file_bytes: int, chunk_bytes: int) -> list[int]:
    """Bytes of each chunk of a file."""
    whole, rest = divmod(file_bytes, chunk_bytes)
    return [chunk_bytes] * whole + [rest] * (rest > 0)


def root_hash(file_bytes: int, chunk_hashes: Sequence[bytes]) -> str:
    """The hash of the whole: BLAKE3 of the size (8 bytes, network order) and the chunks' hashes."""
    return blake3(file_bytes.to_bytes(8, "big") + b"".join(chunk_hashes)).hexdigest()


def fetch_catalogue(address: str, port: int) -> tuple[Catalogue, list[bytes]]:
    """The catalogue of a sender and its chunks' hashes. Raises CastError when it cannot be had or does not agree."""
    try:
        with socket.create_connection((address, port), _TIMEOUT_S) as connection, connection.makefile("rb") as stream:
            length = int.from_bytes(_read(stream.read, 4), "big")
            if length > _MAX_HEADER_BYTES:
                raise CastError(f"{address} port {port} is not a sender of a file: a header of {length} bytes")
            catalogue = messages.decode(Catalogue, _read(stream.read, length))
            if catalogue.chunk_bytes not in _CHUNK_BYTES_RANGE or catalogue.file_bytes < 0:
                raise CastError(f"{address} offers a file of impossible size")
            count = -(-catalogue.file_bytes // catalogue.chunk_bytes)
            if count > _MAX_CHUNKS:
                raise CastError(f"{address} offers a file of {count} chunks; at most {_MAX_CHUNKS} can be received")
            data = _read(stream.read, count * HASH_BYTES)
    except MessageError as error:
        raise CastError(f"{address} port {port} is not a sender of a file: {error}") from error
    except OSError as error:
        raise CastError(f"cannot fetch the catalogue from {address}, TCP port {port}: {error}") from error
    hashes = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
    if root_hash(catalogue.file_bytes, hashes) != catalogue.root:
        raise CastError(f"the catalogue of {address} is damaged")
    return catalogue, hashes


def _read(read: Callable[[int], bytes], count: int) -> bytes:
    data = read(count)
    if len(data) != count:
        raise CastError("the sender closed the connection in the middle of its catalogue")
    return data


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
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_TIMEOUT_S)
            header = messages.encode(self._offer(peer))
            connection.sendall(len(header).to_bytes(4, "big") + header + self._hashes)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
