"""What a file cast offers: name, size, hashes, where its packets go, and any chunk by number. Fetched by TCP.

On the wire (docs/wire.md, "The catalogue"): the receiver says hello, the sender greets it; where they share a key the
receiver proves that it has it, and all that follows is sealed. Then the sender gives the catalogue, or, to a receiver
that multicast does not reach and that comes again, chunks by their numbers.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from imager.errors import CastError, MessageError
from imager.transport.cast_address import check_address
from imager.wire import messages
from imager.wire.messages import CastAddress
from imager.wire.preshared import NONCE_BYTES, SEALED_MORE, SealedConnection
from imager.wire.session import BEACON_NUMBER, symbol_bytes

HASH_BYTES = 32
HELLO = b"RCF1"
OPEN, SEALED = b"\0", b"\1"
_MAX_HEADER_BYTES = 1 << 16
_TIMEOUT_S = 10
WHOLE_S = 60
"""For the whole of a catalogue."""
_READ_BYTES = 1 << 18
_SEGMENT_BYTES = 1180
"""Of TCP: with its headers within what IPv6 wants every link to carry (RFC 8200, section 5)."""
HASH_FRAME = 1 << 20
"""Bytes of hashes in one frame."""
_MAX_CHUNKS = 1 << 22
"""4 TiB in chunks of 1 MiB; the hashes of so many are 128 MiB."""
_CHUNK_BYTES_RANGE = range(1, (16 << 20) + 1)
"""A receiver's ring has room for four chunks at least: what anybody offers must not take more than its memory."""
GREETING_S = 5
"""Until hello, greeting and proof are there: a few bytes."""
_MAX_REASON = 300
"""Characters of a refusal that are shown."""
DONE = b"\xff\xff\xff\xff"
"""Asked for instead of a chunk: the receiver holds everything."""


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
    unicast: bool = False
    """Nothing is cast: chunks come by TCP only."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What comes instead of a catalogue."""

    refused: str = ""
    """Why, for a person; empty: it is no refusal."""


Choose = Callable[[Catalogue, Sequence[bytes]], bytes | None]
"""Which chunks are wanted of a file with these hashes, as a bitmap; None: all. The sender waits for it meanwhile."""


def choose_all(catalogue: Catalogue, hashes: Sequence[bytes]) -> bytes | None:
    """Every chunk is wanted."""
    return None


def stored_lengths(file_bytes: int, chunk_bytes: int) -> list[int]:
    """Bytes of each chunk of a file."""
    whole, rest = divmod(file_bytes, chunk_bytes)
    return [chunk_bytes] * whole + [rest] * (rest > 0)


def full_bitmap(count: int) -> bytes:
    """Of a receiver that lacks every chunk: bit i, most significant first, of `count`; one byte at least."""
    return bytes([0xFF] * (count // 8) + [0xFF00 >> count % 8 & 0xFF] * (count % 8 > 0)) or b"\0"


def root_hash(file_bytes: int, chunk_hashes: Sequence[bytes]) -> str:
    """The hash of the whole: BLAKE3 of the size (8 bytes, network order) and the chunks' hashes."""
    return blake3(file_bytes.to_bytes(8, "big") + b"".join(chunk_hashes)).hexdigest()


class KeyMismatch(CastError):
    """The offer is sealed and we have not its key, or it is open and we were given one."""


class Channel:
    """Frames over TCP, sealed where there is a key. `role`: whose side this is, b"sender" or b"receiver"."""

    def __init__(self, connection: socket.socket, role: bytes, sealed: SealedConnection | None) -> None:
        self._socket = connection
        self._role = role
        self._peer = b"sender" if role == b"receiver" else b"receiver"
        self._sealed = sealed

    def give(self, frame: bytes | memoryview) -> None:
        data = frame if self._sealed is None else self._sealed.seal(self._role, frame)
        self._socket.settimeout(WHOLE_S)
        self._socket.sendall(len(data).to_bytes(4, "big"))
        self._socket.sendall(data)

    def take(self, most: int, end: float) -> bytes:
        """The next frame of the other side, of 1 to `most` bytes."""
        length = int.from_bytes(read_bytes(self._socket, 4, end), "big")
        more = 0 if self._sealed is None else SEALED_MORE
        if not more < length <= most + more:
            raise MessageError(f"a frame of {length} bytes")
        data = read_bytes(self._socket, length, end)
        return data if self._sealed is None else self._sealed.open(self._peer, data)


def fetch_catalogue(
    address: str,
    port: int,
    within_s: float = WHOLE_S,
    key: bytes | None = None,
    root: str = "",
    choose: Choose = choose_all,
) -> tuple[Catalogue, list[bytes]]:
    """The catalogue of a sender and its chunks' hashes. The sender is told which chunks `choose` wants.

    Raises CastError when it is not of the file with this `root` (empty: any will do), when it does not agree, or cannot
    be had within `within_s`, however slowly the sender goes on; KeyMismatch when the key is what lacks.
    """
    end = time.monotonic() + within_s
    try:
        with _connect(address, port, min(within_s, _TIMEOUT_S)) as connection:
            return take_catalogue(connection, address, port, end, key, root, choose)
    except MessageError as error:
        raise CastError(f"{address} port {port} is not a sender of a file: {error}") from error
    except OSError as error:
        raise CastError(f"cannot fetch the catalogue from {address}, TCP port {port}: {error}") from error


def take_catalogue(
    connection: socket.socket,
    address: str,
    port: int,
    end: float,
    key: bytes | None,
    root: str,
    choose: Choose,
) -> tuple[Catalogue, list[bytes]]:
    """fetch_catalogue by a connection that is there, until `end` of the monotonic clock.

    Raises MessageError for what is none, CastError and OSError as well.
    """
    greeted = min(end, time.monotonic() + GREETING_S)
    channel = _greet(connection, f"{address}, TCP port {port}", 0, key, greeted)
    header = channel.take(_MAX_HEADER_BYTES, end)
    if refused := messages.decode(Refusal, header).refused:
        raise CastError(f"{address} admits nobody from here now: {_printable(refused)}")
    catalogue = messages.decode(Catalogue, header)
    if catalogue.chunk_bytes not in _CHUNK_BYTES_RANGE or catalogue.file_bytes < 0:
        raise CastError(f"{address} offers a file of impossible size")
    check_address(catalogue.cast, not catalogue.unicast)
    count = -(-catalogue.file_bytes // catalogue.chunk_bytes)
    if count > _MAX_CHUNKS:
        raise CastError(f"{address} offers a file of {count} chunks; at most {_MAX_CHUNKS} can be received")
    if not catalogue.unicast and _symbols(catalogue) > BEACON_NUMBER:
        raise CastError(f"{address} offers a file of more packets than one cast can number")
    data = bytearray()
    while len(data) < count * HASH_BYTES:
        data += channel.take(min(HASH_FRAME, count * HASH_BYTES - len(data)), end)
    hashes = [bytes(data[at : at + HASH_BYTES]) for at in range(0, len(data), HASH_BYTES)]
    if root_hash(catalogue.file_bytes, hashes) != catalogue.root:
        raise CastError(f"the catalogue of {address} is damaged")
    if root not in ("", catalogue.root):
        raise CastError(f"{address} sends another file")
    wanted = choose(catalogue, hashes)
    channel.give(full_bitmap(count) if wanted is None else wanted)
    return catalogue, hashes


def _printable(text: str) -> str:
    """What another machine says, fit for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_REASON])


def _symbols(catalogue: Catalogue) -> int:
    size = symbol_bytes(catalogue.cast.packet_bytes)
    whole, rest = divmod(catalogue.file_bytes, catalogue.chunk_bytes)
    return whole * -(-catalogue.chunk_bytes // size) + -(-rest // size)


def _greet(connection: socket.socket, name: str, receiver: int, key: bytes | None, end: float) -> Channel:
    """A receiver's beginning of a connection. Raises KeyMismatch and MessageError."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    connection.sendall(HELLO + receiver.to_bytes(2, "big") + nonce)
    greeting = read_bytes(connection, len(HELLO) + 1 + NONCE_BYTES, end)
    kind = greeting[len(HELLO) : len(HELLO) + 1]
    if not greeting.startswith(HELLO) or kind not in (OPEN, SEALED):
        raise MessageError("another program answers there, or another version of it")
    if kind == OPEN:
        if key is not None:
            raise KeyMismatch(f"{name} offers a file without a key: not taken, as --key was given here")
        return Channel(connection, b"receiver", None)
    if key is None:
        raise KeyMismatch(f"{name} offers a sealed file: give --key FILE, with the key that its sender has")
    sealed = SealedConnection(key, greeting[-NONCE_BYTES:], nonce)
    connection.sendall(sealed.proof())
    if read_bytes(connection, 1, end) != SEALED:
        raise KeyMismatch(f"{name} has another key than this --key: give the file that its sender was given")
    return Channel(connection, b"receiver", sealed)


class ChunkConnection:
    """Chunks by number, for a receiver that multicast does not reach; sealed with the receiver's control key."""

    def __init__(self, address: str, port: int, catalogue: Catalogue) -> None:
        """Raises CastError when the sender cannot be reached or knows this receiver no more."""
        self._name = f"{address}, TCP port {port}"
        self._catalogue = catalogue
        end = time.monotonic() + _TIMEOUT_S
        try:
            self._socket = _connect(address, port, _TIMEOUT_S)
            key = bytes.fromhex(catalogue.cast.control_key)
            self._channel = _greet(self._socket, self._name, catalogue.cast.receiver, key, end)
        except (OSError, MessageError, ValueError) as error:
            raise CastError(f"cannot fetch the file from {self._name}: {error}") from error

    def chunk(self, index: int) -> bytes:
        """One chunk, not yet checked against its hash. Raises CastError."""
        length = min(self._catalogue.chunk_bytes, self._catalogue.file_bytes - index * self._catalogue.chunk_bytes)
        try:
            self._channel.give(index.to_bytes(4, "big"))
            data = self._channel.take(length, time.monotonic() + WHOLE_S)
        except (OSError, MessageError) as error:
            raise CastError(f"cannot fetch chunk {index} from {self._name}: {error}") from error
        if len(data) != length:
            raise CastError(f"{self._name} gave {len(data)} bytes of chunk {index}, which has {length}")
        return data

    def say_done(self) -> None:
        """Everything holds."""
        with contextlib.suppress(OSError):  # what was received stays true
            self._channel.give(DONE)

    def close(self) -> None:
        self._socket.close()


def _connect(address: str, port: int, within_s: float) -> socket.socket:
    family, kind, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    connection = socket.socket(family, kind)
    try:
        # a network that carries no packets of ours may be one that carries no long ones
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
        connection.settimeout(within_s)
        connection.connect(target)
    except BaseException:
        connection.close()
        raise
    return connection


def read_bytes(connection: socket.socket, count: int, end: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(min(left, _TIMEOUT_S))
        part = connection.recv(min(count - len(data), _READ_BYTES))
        if not part:
            raise CastError("the other side closed the connection in the middle of what it said")
        data += part
    return bytes(data)
