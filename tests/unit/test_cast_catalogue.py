"""The catalogue of a file cast and its chunks by TCP, on loopback: with and without a pre-shared key."""

import contextlib
import dataclasses
import os
import resource
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import offer_builders
import pytest
from blake3 import blake3

from imager.errors import CastError, MessageError
from imager.transport.catalogue import (
    Catalogue,
    ChunkConnection,
    KeyMismatch,
    fetch_catalogue,
    root_hash,
)
from imager.transport.catalogue_server import CatalogueServer
from imager.wire.messages import CastAddress
from imager.wire.preshared import SealedConnection
from imager.wire.session import PACKET_BYTES

LOOPBACK = "127.0.0.1"
KEY = bytes(range(32))
CHUNKS = [b"0123", b"4567", b"89"]
HASHES = [blake3(chunk).digest() for chunk in CHUNKS]


class Offering:
    """A sender of CHUNKS."""

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {}
        self.fetching: list[int] = []
        self.ended: list[tuple[int, bool]] = []
        self.wanted: list[tuple[int, bytes | None]] = []

    def offer(self, peer: str) -> Catalogue:
        number = len(self.keys) + 1
        self.keys[number] = secrets.token_bytes(32)
        cast = CastAddress(1, number, "239.77.5.5", 7711, "", 7712, PACKET_BYTES, "11" * 32, self.keys[number].hex())
        return Catalogue("file", 10, 4, root_hash(10, HASHES), cast)

    def wants(self, receiver: int, wanted: bytes) -> None:
        self.wanted.append((receiver, wanted))

    def declined(self, receiver: int) -> None:
        self.wanted.append((receiver, None))

    def control_key(self, receiver: int) -> bytes | None:
        return self.keys.get(receiver)

    def fetches(self, receiver: int) -> None:
        self.fetching.append(receiver)

    def read(self, receiver: int, index: int) -> bytes:
        return CHUNKS[index]

    def asked_all(self, receiver: int, done: bool) -> None:
        self.ended.append((receiver, done))


@contextlib.contextmanager
def a_sender(key: bytes | None = None) -> Iterator[tuple[int, Offering]]:
    offering = Offering()
    server = CatalogueServer(LOOPBACK, 0, offering, HASHES, key)
    try:
        yield server.port, offering
    finally:
        server.close()


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "sealed"])
def test_each_receiver_gets_the_catalogue_with_a_number_of_its_own(key: bytes | None) -> None:
    with a_sender(key) as (port, _):
        got = [fetch_catalogue(LOOPBACK, port, key=key) for _ in range(2)]
    assert [hashes for _, hashes in got] == [HASHES, HASHES]
    assert [catalogue.cast.receiver for catalogue, _ in got] == [1, 2]


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (KEY, None, "sealed file: give --key FILE"),
        (KEY, KEY[::-1], "another key than this --key"),
        (None, KEY, "without a key: not taken"),
    ],
    ids=["no key", "another key", "an open offer"],
)
def test_receiver_without_the_senders_key_is_told_what_lacks_and_not_admitted(
    theirs: bytes | None, ours: bytes | None, told: str
) -> None:
    with a_sender(theirs) as (port, offering):
        with pytest.raises(KeyMismatch, match=told):
            fetch_catalogue(LOOPBACK, port, key=ours)
        assert theirs is None or not offering.keys


def test_nothing_of_a_sealed_connection_is_readable_or_can_be_said_again() -> None:
    sender, receiver = (SealedConnection(KEY, b"s" * 16, b"r" * 16) for _ in range(2))
    assert sender.is_proof(receiver.proof())
    sealed = sender.seal(b"sender", b"the catalogue")
    assert b"catalogue" not in sealed
    assert receiver.open(b"sender", sealed) == b"the catalogue"
    again = SealedConnection(KEY, b"s" * 16, b"t" * 16)
    assert not again.is_proof(receiver.proof())
    for other in (receiver, again):  # as the second frame, and in another connection
        with pytest.raises(MessageError):
            other.open(b"sender", sealed)


def test_chunks_come_by_number_to_who_was_admitted() -> None:
    with a_sender() as (port, offering):
        catalogue, _ = fetch_catalogue(LOOPBACK, port)
        with contextlib.closing(ChunkConnection(LOOPBACK, port, catalogue)) as connection:
            assert [connection.chunk(index) for index in (2, 0, 1)] == [CHUNKS[2], CHUNKS[0], CHUNKS[1]]
            connection.say_done()
        wait_for(offering)
    assert (offering.fetching, offering.ended) == ([1], [(1, True)])


def test_receiver_that_leaves_in_the_middle_is_told_as_not_done() -> None:
    with a_sender() as (port, offering):
        catalogue, _ = fetch_catalogue(LOOPBACK, port)
        connection = ChunkConnection(LOOPBACK, port, catalogue)
        assert connection.chunk(0) == CHUNKS[0]
        connection.close()
        wait_for(offering)
    assert offering.ended == [(1, False)]


def test_nobody_gets_or_ends_the_chunks_of_another_receiver() -> None:
    with a_sender() as (port, offering):
        catalogue, _ = fetch_catalogue(LOOPBACK, port)
        offering.keys[1] = bytes(32)  # as if we had guessed the number, not the key
        with pytest.raises(CastError):
            ChunkConnection(LOOPBACK, port, catalogue)
        del offering.keys[1]
        with pytest.raises(CastError):
            ChunkConnection(LOOPBACK, port, catalogue)
    assert (offering.fetching, offering.ended) == ([], [])  # whose number was named is not disturbed


def test_a_chunk_that_does_not_exist_ends_the_connection() -> None:
    with a_sender() as (port, offering):
        catalogue, _ = fetch_catalogue(LOOPBACK, port)
        with contextlib.closing(ChunkConnection(LOOPBACK, port, catalogue)) as connection, pytest.raises(CastError):
            connection.chunk(3)
        wait_for(offering)
    assert offering.ended == [(1, False)]


def test_what_is_no_hello_is_not_answered() -> None:
    with a_sender() as (port, offering), socket.create_connection((LOOPBACK, port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):  # what it said was not read to the end
            assert stranger.recv(1) == b""
        assert not offering.keys


def wait_for(offering: Offering) -> None:
    end = time.monotonic() + 10
    while not offering.ended:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_sender_hears_what_is_wanted_and_who_wanted_another_file() -> None:
    with a_sender() as (port, offering):
        root = root_hash(10, HASHES)
        fetch_catalogue(LOOPBACK, port)
        fetch_catalogue(LOOPBACK, port, root=root, choose=lambda catalogue, hashes: b"\x40")
        with pytest.raises(CastError, match="sends another file"):
            fetch_catalogue(LOOPBACK, port, root="00" * 32, choose=lambda catalogue, hashes: b"\x40")
        deadline = time.monotonic() + 10
        while len(offering.wanted) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert sorted(offering.wanted) == [(1, b"\xe0"), (2, b"\x40"), (3, None)]


@pytest.mark.parametrize(
    "changes",
    [
        {"session": 1 << 33},
        {"session": -1},
        {"receiver": 0},
        {"receiver": 70000},
        {"data_port": 99999},
        {"control_port": -5},
        {"control_port": 0},
        {"group": "10.0.0.1"},
        {"group": "no address"},
        {"packet_bytes": 0},
        {"control_key": "11"},
    ],
    ids=str,
)
def test_a_catalogue_whose_address_cannot_be_is_refused_before_anything_is_made_of_it(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_sender() as (port, offering):
        catalogue = offering.offer(LOOPBACK)
        rogue = dataclasses.replace(catalogue, cast=dataclasses.replace(catalogue.cast, **changes))
        monkeypatch.setattr(offering, "offer", lambda peer: rogue)
        with pytest.raises(CastError, match="cannot be"):
            fetch_catalogue(LOOPBACK, port)


def test_a_catalogue_of_more_packets_than_can_be_numbered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_sender() as (port, offering):
        catalogue = dataclasses.replace(offering.offer(LOOPBACK), file_bytes=7 << 40, chunk_bytes=16 << 20)
        monkeypatch.setattr(offering, "offer", lambda peer: catalogue)
        with pytest.raises(CastError, match="more packets than one cast"):
            fetch_catalogue(LOOPBACK, port)


def test_a_peer_that_says_nothing_on_many_connections_keeps_nobody_out() -> None:
    with a_sender() as (port, _), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((LOOPBACK, port))) for _ in range(300)]
        with socket.create_connection((LOOPBACK, port), source_address=("127.0.0.2", 0), timeout=4) as other:
            other.sendall(b"RCF1" + bytes(2 + 16))
            assert other.recv(4) == b"RCF1"
        silent[-1].settimeout(4)
        assert silent[-1].recv(1) == b""


def test_who_came_while_no_descriptor_was_left_is_let_in_when_there_is_one() -> None:
    with a_sender() as (port, _), contextlib.ExitStack() as stack:
        coming = [stack.enter_context(socket.socket()) for _ in range(3)]  # accept() may hold one descriptor already
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            for connection in coming:
                connection.connect((LOOPBACK, port))
                connection.sendall(b"RCF1" + bytes(2 + 16))
            coming[-1].settimeout(0.3)
            with pytest.raises(TimeoutError):
                coming[-1].recv(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        coming[-1].settimeout(10)
        assert coming[-1].recv(4) == b"RCF1"


ADDRESS = CastAddress(4711, 1, "239.77.99.1", 7711, "", 7712, PACKET_BYTES, "00" * 32, "11" * 32)


@contextlib.contextmanager
def offered(catalogue: Catalogue, hashes: list[bytes]) -> Iterator[int]:
    """The port where this is given, whatever it is."""
    server = CatalogueServer(LOOPBACK, 0, offer_builders.Offering(catalogue), hashes)
    try:
        yield server.port
    finally:
        server.close()


def test_a_catalogue_is_fetched_as_it_was_offered() -> None:
    hashes = [bytes([n]) * 32 for n in range(3)]
    catalogue = Catalogue("häuser.iso", 2500, 1000, root_hash(2500, hashes), ADDRESS)
    with offered(catalogue, hashes) as port:
        assert fetch_catalogue(LOOPBACK, port) == (catalogue, hashes)


@pytest.mark.parametrize(
    ("catalogue", "hashes", "reason"),
    [
        (Catalogue("f", 2500, 1000, "00", ADDRESS), [bytes(32)] * 3, "is damaged"),
        (Catalogue("f", 2500, 1000, "00", ADDRESS), [bytes(32)] * 2, "timed out"),
        (Catalogue("f", 2500, 1000, "00", ADDRESS), [bytes(32)] * 4, "a frame of 128 bytes"),
        (Catalogue("f", -1, 1000, "00", ADDRESS), [], "impossible size"),
        (Catalogue("f", 1, 0, "00", ADDRESS), [], "impossible size"),
        (Catalogue("f", 1, (16 << 20) + 1, "00", ADDRESS), [], "impossible size"),
        (Catalogue("f", 2**36, 1, "00", ADDRESS), [], "at most 4194304 can be received"),
        (Catalogue("f", 2**62, 1000, "00", ADDRESS), [], "at most 4194304 can be received"),
    ],
    ids=[
        "another root",
        "too few hashes",
        "too many hashes",
        "negative size",
        "chunks of nothing",
        "chunks that fit no memory",
        "many chunks",
        "a huge file",
    ],
)
def test_a_catalogue_that_does_not_agree_is_refused(catalogue: Catalogue, hashes: list[bytes], reason: str) -> None:
    with offered(catalogue, hashes) as port, pytest.raises(CastError, match=reason):
        fetch_catalogue(LOOPBACK, port, within_s=2)


def test_a_port_that_speaks_something_else_is_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:

        def greet() -> None:
            with listener.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(CastError, match="is not a sender of a file"):
            fetch_catalogue(LOOPBACK, listener.getsockname()[1])
        thread.join()
