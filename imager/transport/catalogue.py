"""What a file cast offers: name, size, hashes, where its packets go, and any chunk by number. Given by TCP.

On the wire (docs/wire.md, "The catalogue"): the receiver says hello, the sender greets it; where they share a key the
receiver proves that it has it, and all that follows is sealed. Then the sender gives the catalogue, or, to a receiver
that multicast does not reach and that comes again, chunks by their numbers.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from imager.errors import CastError, ImagerError, MessageError
from imager.transport.cast_address import check_address
from imager.transport.group_socket import family_of, socket_address
from imager.wire import messages
from imager.wire.messages import CastAddress
from imager.wire.preshared import NONCE_BYTES, PROOF_BYTES, SEALED_MORE, SealedConnection
from imager.wire.session import BEACON_NUMBER, symbol_bytes

HASH_BYTES = 32
_HELLO = b"RCF1"
_OPEN, _SEALED = b"\0", b"\1"
_MAX_HEADER_BYTES = 1 << 16
_TIMEOUT_S = 10
_WHOLE_S = 60
"""For the whole of a catalogue."""
_PATIENCE_S = 120
"""A receiver may take so long until it asks for its next chunk: its disk may be slow."""
_READ_BYTES = 1 << 18
_SEGMENT_BYTES = 1180
"""Of TCP: with its headers within what IPv6 wants every link to carry (RFC 8200, section 5)."""
_HASH_FRAME = 1 << 20
"""Bytes of hashes in one frame."""
_MAX_CHUNKS = 1 << 22
"""4 TiB in chunks of 1 MiB; the hashes of so many are 128 MiB."""
_CHUNK_BYTES_RANGE = range(1, (16 << 20) + 1)
"""A receiver's ring has room for four chunks at least: what anybody offers must not take more than its memory."""
_MAX_CONNECTIONS = 256
"""At a time; whoever comes beyond waits in the backlog."""
_MAX_GREETING = 16
"""Of one peer, until hello and proof are there; one more is closed."""
_GREETING_S = 5
"""Until hello, greeting and proof are there: a few bytes."""
_AGAIN_S = 0.1
"""Nobody could be let in: tried again after this."""
_DONE = b"\xff\xff\xff\xff"
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


class Offerer(Protocol):
    """What stands behind a CatalogueServer. Called from several threads."""

    def offer(self, peer: str) -> Catalogue:
        """The catalogue for a new receiver at this address. Raises CastError when none can be admitted."""

    def wants(self, receiver: int, wanted: bytes) -> None:
        """The receiver lacks the chunks of this bitmap."""

    def declined(self, receiver: int) -> None:
        """The receiver wants nothing of this file: it looks for another."""

    def control_key(self, receiver: int) -> bytes | None:
        """The key of a receiver that may ask for chunks; None when there is none of that number."""

    def fetches(self, receiver: int) -> None:
        """This receiver has come for chunks, and proved that it is it."""

    def read(self, receiver: int, index: int) -> bytes | memoryview:
        """A chunk for a receiver that asks for it. Raises ImagerError or OSError."""

    def asked_all(self, receiver: int, done: bool) -> None:
        """A receiver that asked for chunks holds everything (`done`), or has gone without."""


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


class _Channel:
    """Frames over TCP, sealed where there is a key."""

    def __init__(self, connection: socket.socket, role: bytes, sealed: SealedConnection | None) -> None:
        self._socket = connection
        self._role = role
        self._peer = b"sender" if role == b"receiver" else b"receiver"
        self._sealed = sealed

    def give(self, frame: bytes | memoryview) -> None:
        data = frame if self._sealed is None else self._sealed.seal(self._role, frame)
        self._socket.settimeout(_WHOLE_S)
        self._socket.sendall(len(data).to_bytes(4, "big"))
        self._socket.sendall(data)

    def take(self, most: int, end: float) -> bytes:
        """The next frame of the other side, of 1 to `most` bytes."""
        length = int.from_bytes(_read(self._socket, 4, end), "big")
        more = 0 if self._sealed is None else SEALED_MORE
        if not more < length <= most + more:
            raise MessageError(f"a frame of {length} bytes")
        data = _read(self._socket, length, end)
        return data if self._sealed is None else self._sealed.open(self._peer, data)


def fetch_catalogue(
    address: str,
    port: int,
    within_s: float = _WHOLE_S,
    key: bytes | None = None,
    root: str = "",
    wanted: bytes | None = None,
) -> tuple[Catalogue, list[bytes]]:
    """The catalogue of a sender and its chunks' hashes. The sender is told which chunks are `wanted`, None: all.

    Raises CastError when it is not of the file with this `root` (empty: any will do), when it does not agree, or cannot
    be had within `within_s`, however slowly the sender goes on; KeyMismatch when the key is what lacks.
    """
    end = time.monotonic() + within_s
    try:
        with _connect(address, port, min(within_s, _TIMEOUT_S)) as connection:
            greeted = min(end, time.monotonic() + _GREETING_S)
            channel = _greet(connection, f"{address}, TCP port {port}", 0, key, greeted)
            catalogue = messages.decode(Catalogue, channel.take(_MAX_HEADER_BYTES, end))
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
                data += channel.take(min(_HASH_FRAME, count * HASH_BYTES - len(data)), end)
            hashes = [bytes(data[at : at + HASH_BYTES]) for at in range(0, len(data), HASH_BYTES)]
            if root_hash(catalogue.file_bytes, hashes) != catalogue.root:
                raise CastError(f"the catalogue of {address} is damaged")
            if root not in ("", catalogue.root):
                raise CastError(f"{address} sends another file")
            channel.give(full_bitmap(count) if wanted is None else wanted)
    except MessageError as error:
        raise CastError(f"{address} port {port} is not a sender of a file: {error}") from error
    except OSError as error:
        raise CastError(f"cannot fetch the catalogue from {address}, TCP port {port}: {error}") from error
    return catalogue, hashes


def _symbols(catalogue: Catalogue) -> int:
    size = symbol_bytes(catalogue.cast.packet_bytes)
    whole, rest = divmod(catalogue.file_bytes, catalogue.chunk_bytes)
    return whole * -(-catalogue.chunk_bytes // size) + -(-rest // size)


def _greet(connection: socket.socket, name: str, receiver: int, key: bytes | None, end: float) -> _Channel:
    """A receiver's beginning of a connection. Raises KeyMismatch and MessageError."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    connection.sendall(_HELLO + receiver.to_bytes(2, "big") + nonce)
    greeting = _read(connection, len(_HELLO) + 1 + NONCE_BYTES, end)
    kind = greeting[len(_HELLO) : len(_HELLO) + 1]
    if not greeting.startswith(_HELLO) or kind not in (_OPEN, _SEALED):
        raise MessageError("another program answers there, or another version of it")
    if kind == _OPEN:
        if key is not None:
            raise KeyMismatch(f"{name} offers a file without a key: not taken, as --key was given here")
        return _Channel(connection, b"receiver", None)
    if key is None:
        raise KeyMismatch(f"{name} offers a sealed file: give --key FILE, with the key that its sender has")
    sealed = SealedConnection(key, greeting[-NONCE_BYTES:], nonce)
    connection.sendall(sealed.proof())
    if _read(connection, 1, end) != _SEALED:
        raise KeyMismatch(f"{name} has another key than this --key: give the file that its sender was given")
    return _Channel(connection, b"receiver", sealed)


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
            data = self._channel.take(length, time.monotonic() + _WHOLE_S)
        except (OSError, MessageError) as error:
            raise CastError(f"cannot fetch chunk {index} from {self._name}: {error}") from error
        if len(data) != length:
            raise CastError(f"{self._name} gave {len(data)} bytes of chunk {index}, which has {length}")
        return data

    def say_done(self) -> None:
        """Everything holds."""
        with contextlib.suppress(OSError):  # what was received stays true
            self._channel.give(_DONE)

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


def _read(connection: socket.socket, count: int, end: float) -> bytes:
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


class CatalogueServer:
    """Gives the catalogue to whoever connects, each with a receiver number of its own, from threads of its own."""

    def __init__(
        self, address: str, port: int, offerer: Offerer, hashes: Sequence[bytes], key: bytes | None = None
    ) -> None:
        """`port`: taken when it is free, else another. `key`: without it nobody is given anything."""
        self._offerer = offerer
        self._hashes = b"".join(hashes)
        self._key = key
        self._room = threading.Semaphore(_MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._greeting: Counter[str] = Counter()  # connections that have proved nothing yet, by their peers
        self._closing = threading.Event()
        family = family_of(address)
        try:
            self._listener = socket.create_server(socket_address(address, port), family=family, backlog=256)
        except OSError:
            self._listener = socket.create_server(socket_address(address, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="catalogue", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            self._room.acquire()
            try:
                connection, peer = self._listener.accept()
            except OSError:  # a connection that was gone again, or no descriptor left: the next may do
                self._room.release()
                self._closing.wait(_AGAIN_S)
                continue
            if not self._greet_one_more(peer[0]):
                connection.close()
                self._room.release()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection, peer[0]), daemon=True).start()
            except RuntimeError:  # no thread left
                connection.close()
                self._greeted(peer[0])
                self._room.release()

    def _greet_one_more(self, peer: str) -> bool:
        with self._lock:
            self._greeting[peer] += 1
            if self._greeting[peer] <= _MAX_GREETING:
                return True
            self._greeting[peer] -= 1
            return False

    def _greeted(self, peer: str) -> None:
        with self._lock:
            self._greeting[peer] -= 1
            if not self._greeting[peer]:
                del self._greeting[peer]

    def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            with connection, contextlib.suppress(OSError, ImagerError):  # of one connection: the others go on
                try:
                    greeted = self._hello(connection)
                finally:
                    self._greeted(peer)
                if greeted is None:
                    return
                channel, receiver = greeted
                if receiver:
                    self._give_chunks(channel, receiver)
                else:
                    self._give_catalogue(channel, peer)
        finally:
            self._room.release()

    def _hello(self, connection: socket.socket) -> tuple[_Channel, int] | None:
        """Who has said hello and proved what it has to: its channel and number. None for anybody else."""
        end = time.monotonic() + _GREETING_S
        hello = _read(connection, len(_HELLO) + 2 + NONCE_BYTES, end)
        if not hello.startswith(_HELLO):
            return None
        receiver = int.from_bytes(hello[len(_HELLO) : len(_HELLO) + 2], "big")
        key = self._offerer.control_key(receiver) if receiver else self._key
        if receiver and key is None:
            return None
        nonce = secrets.token_bytes(NONCE_BYTES)
        connection.sendall(_HELLO + (_OPEN if key is None else _SEALED) + nonce)
        sealed = None
        if key is not None:
            sealed = SealedConnection(key, nonce, hello[-NONCE_BYTES:])
            if not sealed.is_proof(_read(connection, PROOF_BYTES, end)):
                connection.sendall(_OPEN)
                return None
            connection.sendall(_SEALED)
        return _Channel(connection, b"sender", sealed), receiver

    def _give_catalogue(self, channel: _Channel, peer: str) -> None:
        catalogue = self._offerer.offer(peer)
        receiver, wanted = catalogue.cast.receiver, b""
        length = len(full_bitmap(len(self._hashes) // HASH_BYTES))
        try:
            channel.give(messages.encode(catalogue))
            view = memoryview(self._hashes)
            for at in range(0, len(view), _HASH_FRAME):
                channel.give(view[at : at + _HASH_FRAME])
            wanted = channel.take(length, time.monotonic() + _WHOLE_S)
        finally:
            if len(wanted) == length:
                self._offerer.wants(receiver, wanted)
            else:
                self._offerer.declined(receiver)

    def _give_chunks(self, channel: _Channel, receiver: int) -> None:
        """What a receiver asks for, until it is done."""
        self._offerer.fetches(receiver)
        done = False
        try:
            while (asked := channel.take(4, time.monotonic() + _PATIENCE_S)) != _DONE:
                index = int.from_bytes(asked, "big")
                if index * HASH_BYTES >= len(self._hashes):
                    return
                channel.give(self._offerer.read(receiver, index))
            done = True
        finally:
            self._offerer.asked_all(receiver, done)

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._room.release()  # it may wait for room, not for somebody
        self._thread.join()
