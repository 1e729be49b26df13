"""The cast's parsers and the sessions behind them, as targets: each takes any bytes and may raise nothing.

What is sealed no stranger gets past, so the sessions run without a cipher here, as if every fuzzer had the keys; and
counters are set to what a session has not seen yet, as else only the first datagram of a series would be taken.
"""

import numpy as np

from imager.errors import MessageError, PacketError
from imager.multicast.erasure import load_code
from imager.multicast.events import ChunkAssembled
from imager.multicast.layout import CastLayout
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.multicast.sender import SenderSession, SenderSettings
from imager.transport.catalogue import Catalogue
from imager.wire.announce import build_announce, parse_announce
from imager.wire.messages import Admission, decode, encode
from imager.wire.seal import Unsealed
from imager.wire.session import HEADER_BYTES, KEY_BYTES

PACKET_BYTES = 512
SESSION, RECEIVER = 0x5EED, 3
_KEY = bytes(KEY_BYTES)
_LAYOUT = CastLayout([40 * 480, 300 * 480 - 7, 9 * 480], PACKET_BYTES)
_ADDRESS = ("10.0.0.9", 999)


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
        """Announcements, catalogues and admissions."""
        try:
            assert parse_announce(build_announce(parse_announce(data))) == parse_announce(data)
        except PacketError:
            pass
        for kind in (Catalogue, Admission):
            try:
                encode(decode(kind, data))
            except MessageError:
                pass


assert HEADER_BYTES == 16, "where the counters are"
