"""The sender's side of catalogues and of chunks by TCP: who connects is greeted, proves what it has to, and is served.

What a connection says is taken by functions of it alone; the server has the listening socket and the threads.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from imager.errors import CastError, ImagerError
from imager.transport.catalogue import (
    DONE,
    GREETING_S,
    HASH_BYTES,
    HASH_FRAME,
    HELLO,
    OPEN,
    SEALED,
    WHOLE_S,
    Catalogue,
    Channel,
    Refusal,
    full_bitmap,
    read_bytes,
)
from imager.transport.group_socket import family_of, socket_address
from imager.wire import messages
from imager.wire.preshared import NONCE_BYTES, PROOF_BYTES, SealedConnection

_MAX_CONNECTIONS = 256
"""At a time; whoever comes beyond waits in the backlog."""
_MAX_GREETING = 16
"""Of one peer, until hello and proof are there; one more is closed."""
_AGAIN_S = 0.1
"""Nobody could be let in: tried again after this."""
_PATIENCE_S = 120
"""A receiver may take so long until it asks for its next chunk: its disk may be slow."""


class Offerer(Protocol):
    """What stands behind a CatalogueServer. Called from several threads."""

    def offer(self, peer: str) -> Catalogue:
        """The catalogue for a new receiver at this address. Raises CastError, with what it is told, when none can be
        admitted.
        """

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


@dataclass(frozen=True, slots=True)
class Offer:
    """What all connections of one server are given."""

    offerer: Offerer
    hashes: bytes
    """Of all chunks, one after the other."""
    key: bytes | None = field(repr=False)
    """Pre-shared."""


def greet(connection: socket.socket, offer: Offer) -> tuple[Channel, int] | None:
    """Who has said hello and proved what it has to: its channel and number. None for anybody else."""
    end = time.monotonic() + GREETING_S
    hello = read_bytes(connection, len(HELLO) + 2 + NONCE_BYTES, end)
    if not hello.startswith(HELLO):
        return None
    receiver = int.from_bytes(hello[len(HELLO) : len(HELLO) + 2], "big")
    key = offer.offerer.control_key(receiver) if receiver else offer.key
    if receiver and key is None:
        return None
    nonce = secrets.token_bytes(NONCE_BYTES)
    connection.sendall(HELLO + (OPEN if key is None else SEALED) + nonce)
    sealed = None
    if key is not None:
        sealed = SealedConnection(key, nonce, hello[-NONCE_BYTES:])
        if not sealed.is_proof(read_bytes(connection, PROOF_BYTES, end)):
            connection.sendall(OPEN)
            return None
        connection.sendall(SEALED)
    return Channel(connection, b"sender", sealed), receiver


def converse(channel: Channel, receiver: int, peer: str, offer: Offer) -> None:
    """Give what one comes for: without a number the catalogue, with one chunks."""
    if receiver:
        _give_chunks(channel, receiver, offer)
    else:
        _give_catalogue(channel, peer, offer)


def _give_catalogue(channel: Channel, peer: str, offer: Offer) -> None:
    try:
        catalogue = offer.offerer.offer(peer)
    except CastError as error:
        channel.give(messages.encode(Refusal(str(error))))
        return
    receiver, wanted = catalogue.cast.receiver, b""
    length = len(full_bitmap(len(offer.hashes) // HASH_BYTES))
    try:
        channel.give(messages.encode(catalogue))
        view = memoryview(offer.hashes)
        for at in range(0, len(view), HASH_FRAME):
            channel.give(view[at : at + HASH_FRAME])
        wanted = channel.take(length, time.monotonic() + WHOLE_S)
    finally:
        if len(wanted) == length:
            offer.offerer.wants(receiver, wanted)
        else:
            offer.offerer.declined(receiver)


def _give_chunks(channel: Channel, receiver: int, offer: Offer) -> None:
    """What a receiver asks for, until it is done."""
    offer.offerer.fetches(receiver)
    done = False
    try:
        while (asked := channel.take(4, time.monotonic() + _PATIENCE_S)) != DONE:
            index = int.from_bytes(asked, "big")
            if index * HASH_BYTES >= len(offer.hashes):
                return
            channel.give(offer.offerer.read(receiver, index))
        done = True
    finally:
        offer.offerer.asked_all(receiver, done)


class CatalogueServer:
    """Gives the catalogue to whoever connects, each with a receiver number of its own, from threads of its own."""

    def __init__(
        self, address: str, port: int, offerer: Offerer, hashes: Sequence[bytes], key: bytes | None = None
    ) -> None:
        """`port`: taken when it is free, else another. `key`: without it nobody is given anything."""
        self._offer = Offer(offerer, b"".join(hashes), key)
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
                    greeted = greet(connection, self._offer)
                finally:
                    self._greeted(peer)
                if greeted is not None:
                    converse(*greeted, peer, self._offer)
        finally:
            self._room.release()

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._room.release()  # it may wait for room, not for somebody
        self._thread.join()
