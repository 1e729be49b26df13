"""The cast's parsers and the sessions behind them, as targets: each takes any bytes and may raise nothing.

What is sealed no stranger gets past, so the sessions run without a cipher here, as if every fuzzer had the keys; and
counters are set to what a session has not seen yet, as else only the first datagram of a series would be taken.
"""

import contextlib
import socket
import time

import numpy as np
from blake3 import blake3

from imager.errors import CastError, ImagerError, MessageError, PacketError
from imager.multicast.erasure import load_code
from imager.multicast.events import ChunkAssembled
from imager.multicast.layout import CastLayout, unpack_wanted
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.multicast.sender import SenderSession, SenderSettings
from imager.transport.cast_address import check_address
from imager.transport.catalogue import Catalogue, Channel, Refusal, choose_all, root_hash, take_catalogue
from imager.transport.catalogue_server import Offer, converse, greet
from imager.wire.announce import build_announce, parse_announce
from imager.wire.messages import (
    Admission,
    CastAddress,
    Inventory,
    Progress,
    ProgressAnswer,
    Registration,
    Task,
    TaskResult,
    decode,
    encode,
)
from imager.wire.packets import build_ack, build_control, parse_ack, parse_beacon, parse_control
from imager.wire.seal import Unsealed
from imager.wire.session import HEADER_BYTES, KEY_BYTES, Kind

PACKET_BYTES = 512
SESSION, RECEIVER = 0x5EED, 3
_KEY = bytes(KEY_BYTES)
_LAYOUT = CastLayout([40 * 480, 300 * 480 - 7, 9 * 480], PACKET_BYTES)
_ADDRESS = ("10.0.0.9", 999)
_MESSAGES = (
    Catalogue, Refusal, Admission, CastAddress, Inventory, Registration, Task, Progress, ProgressAnswer, TaskResult
)  # fmt: skip
_MOST_SAID = 150
"""Bytes of a receiver that asks for chunks and reads none: what answers them lies in the kernel, which bounds it."""
_CHUNKS = (b"0123", b"4567", b"89")
HASHES = [blake3(chunk).digest() for chunk in _CHUNKS]


def _numbered(data: bytes, offset: int, number: int, size: int) -> bytes:
    return data[:offset] + number.to_bytes(size, "big") + data[offset + size :] if len(data) > offset + size else data


class CastTargets:
    """Fresh sessions, whose state the datagrams change."""

    def __init__(self) -> None:
        self._now = 0.0
        self._count = 0
        self._new_sender()
        self._new_receiver()

    def _new_sender(self) -> None:
        everything = np.ones(_LAYOUT.chunk_count, np.bool_)
        self._sender = SenderSession(_LAYOUT, SenderSettings(SESSION, _KEY), everything, self._now, Unsealed)
        self._sender.admit(RECEIVER, _KEY, None, self._now)
        self._sender.admit(RECEIVER + 1, _KEY, None, self._now)
        self._sender.begin(self._now)

    def _new_receiver(self) -> None:
        everything = np.ones(_LAYOUT.chunk_count, np.bool_)
        memory = np.zeros((2, 300 * _LAYOUT.symbol_bytes), np.uint8)
        settings = ReceiverSettings(SESSION, RECEIVER, _KEY, _KEY)
        self._receiver = ReceiverSession(_LAYOUT, settings, everything, memory, load_code(), self._now, Unsealed)

    def _tick(self) -> None:
        self._now += 0.005
        self._count += 1

    def sender(self, data: bytes) -> None:
        """The control port."""
        self._tick()
        sender = self._sender
        sender.receive_datagram(data, _ADDRESS, self._now)
        sender.receive_datagram(_numbered(data, 8, self._count, 8), _ADDRESS, self._now)
        sender.datagrams_to_send(self._now)
        assert all(len(answer) == 40 and to == _ADDRESS for answer, to in sender.replies())
        sender.events()
        sender.handle_timeout(self._now)
        sender.next_timeout()
        sender.statistics(self._now)
        if sender.closed:
            self._new_sender()

    def receiver(self, data: bytes) -> None:
        """The data port, and the socket that the sender answers to."""
        self._tick()
        receiver = self._receiver
        receiver.receive_datagram(data, self._now)
        receiver.receive_datagram(_numbered(data, 8, (1 << 63) + self._count, 8), self._now)
        for packet in (data, _numbered(data, 12, self._count, 4)):
            row = np.frombuffer(packet[:PACKET_BYTES].ljust(PACKET_BYTES, b"\0"), np.uint8).reshape(1, PACKET_BYTES)
            receiver.receive_datagrams(row, receiver.cast_cipher.opener(row), self._now)
        for event in receiver.events():
            if isinstance(event, ChunkAssembled):
                receiver.release(event.chunk, self._count % 2 == 0, self._now)
        assert all(len(said) <= PACKET_BYTES for said in receiver.datagrams_to_send(self._now))
        receiver.handle_timeout(self._now)
        receiver.next_timeout()
        receiver.statistics()
        if receiver.closed:
            self._new_receiver()

    def words(self, data: bytes) -> None:
        """Announcements, what is sealed in datagrams, bitmaps, and all that agents and appliance say in JSON."""
        with contextlib.suppress(PacketError):
            assert parse_announce(build_announce(parse_announce(data))) == parse_announce(data)
        with contextlib.suppress(PacketError):
            assert build_ack(parse_ack(data)) == data
        with contextlib.suppress(PacketError):
            parse_beacon(data)
        for kind in Kind:
            with contextlib.suppress(PacketError):
                assert build_control(parse_control(kind, data)) == data
        with contextlib.suppress(ValueError):
            assert unpack_wanted(data, 13).shape == (13,)
        for message in _MESSAGES:
            with contextlib.suppress(MessageError, CastError):
                said = decode(message, data)
                assert decode(message, encode(said)) == said
                if isinstance(said, Catalogue | Admission) and said.cast is not None:
                    check_address(said.cast)

    def tcp(self, data: bytes) -> None:
        """The TCP port of a file cast, and a receiver that came to one; the first byte says which of them hears it."""
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.suppress(ImagerError, OSError):
            theirs.sendall(data[1 : _MOST_SAID if data[:1] == b"\1" else None])
            theirs.shutdown(socket.SHUT_WR)
            offer = Offer(_Offering(), b"".join(HASHES), None)
            match data[:1]:
                case b"\0":
                    if (greeted := greet(ours, offer)) is not None:
                        converse(*greeted, "10.0.0.9", offer)
                case b"\1":
                    converse(Channel(ours, b"sender", None), RECEIVER, "10.0.0.9", offer)
                case _:
                    catalogue, hashes = take_catalogue(
                        ours, "10.0.0.1", 7710, time.monotonic() + 5, None, "", choose_all
                    )
                    assert root_hash(catalogue.file_bytes, hashes) == catalogue.root


_CAST = CastAddress(1, RECEIVER, "239.77.5.5", 7711, "10.0.0.1", 7712, 1472, "11" * 32, "22" * 32)


class _Offering:
    """A sender of _CHUNKS."""

    def offer(self, peer: str) -> Catalogue:
        return Catalogue("file", 10, 4, root_hash(10, HASHES), _CAST)

    def wants(self, receiver: int, wanted: bytes) -> None:
        assert unpack_wanted(wanted, len(_CHUNKS)).shape == (len(_CHUNKS),)

    def declined(self, receiver: int) -> None:
        pass

    def control_key(self, receiver: int) -> bytes | None:
        return _KEY if receiver == RECEIVER else None

    def fetches(self, receiver: int) -> None:
        pass

    def read(self, receiver: int, index: int) -> bytes:
        return _CHUNKS[index]

    def asked_all(self, receiver: int, done: bool) -> None:
        pass


assert HEADER_BYTES == 16, "where the counters are"
