"""The receiver's own process, `python -m imager.transport.receive_process FD RING`: see imager.transport.receive.

One thread, one loop: packets from the group into the session, its datagrams to the sender, whole chunks to the parent
through the shared ring. No protocol decision is taken here.
"""

import contextlib
import gc
import mmap
import select
import socket
import struct
import sys
import time
from multiprocessing.connection import Connection

import numpy as np

from imager.errors import CastError
from imager.multicast.erasure import load_code
from imager.multicast.events import GroupSilent, SessionLost
from imager.multicast.layout import CastLayout, unpack_wanted
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.transport.child import connection_of
from imager.transport.endpoint import GroupReceiver
from imager.transport.group_socket import family_of, socket_address
from imager.transport.receive import AllReleased, HeldUp, ReceiveMessage, ReceiveSetup, Release, SayDone, SayLeave
from imager.wire.groups import without_interface

_STATISTICS_S = 0.1
_BEHIND_S = 0.5
"""Packets that overran the socket's buffer are told of so long."""
_FEW_PACKETS = 132
"""After a batch below this the group's packets wait: the next turn then takes what would have cost several..."""
_GATHER_S = 0.008
"""...so long at most, until the session has something to say, or another to be heard."""
_LONGEST_WAIT_S = 0.25
_READS = 64
"""Datagrams of the sender's address in one turn: whoever forges that address keeps nobody from the group's packets."""
_clock = time.monotonic


class ReceivingLoop:
    """Drives one session until it is closed or the parent has gone."""

    def __init__(self, setup: ReceiveSetup, ring: int, connection: Connection) -> None:
        """Raises CastError when the group cannot be joined, ValueError for a setup that makes no sense."""
        address = setup.address
        layout = CastLayout(setup.stored_lengths, address.packet_bytes)
        memory = np.frombuffer(mmap.mmap(ring, setup.slots * setup.slot_bytes), np.uint8)
        self._session = ReceiverSession(
            layout,
            ReceiverSettings(
                address.session,
                address.receiver,
                bytes.fromhex(address.cast_key),
                bytes.fromhex(address.control_key),
                setup.sender_timeout_s,
            ),
            unpack_wanted(setup.wanted, layout.chunk_count),
            memory.reshape(setup.slots, setup.slot_bytes),
            load_code(),
            _clock(),
        )
        try:
            self._group = GroupReceiver(
                address.group,
                address.data_port,
                setup.interface_address,
                buffer_bytes=setup.socket_bytes,
                packet_bytes=address.packet_bytes,
            )
            own = setup.interface_address
            self._control = socket.socket(family_of(own), socket.SOCK_DGRAM)
            self._control.bind(socket_address(own, 0))
            sender = without_interface(address.sender)  # one of the link is of ours
            self._control.connect(socket_address(sender, address.control_port, own.partition("%")[2]))
            self._control.setblocking(False)
        except OSError as error:
            raise CastError(f"cannot join {address.group} on {setup.interface_address}: {error.strerror}") from error
        self._opener = self._session.cast_cipher.opener(self._group.batch)
        self._connection = connection
        self._told_all = False
        self._parent_gone = False
        self._statistics_at = 0.0
        self._overruns = 0
        self._behind_until = 0.0

    def run(self) -> None:
        """Until the session is closed or the parent has gone; OSError when it went while it was told something."""
        all_sockets, others = select.poll(), select.poll()
        all_sockets.register(self._group.fileno(), select.POLLIN)
        for readable in (self._control, self._connection):
            all_sockets.register(readable.fileno(), select.POLLIN)
            others.register(readable.fileno(), select.POLLIN)
        group, control = self._group.fileno(), self._control.fileno()
        session = self._session
        few = False
        while True:
            now = _clock()
            self._tell(now)
            if session.closed:
                return
            due = session.next_timeout()
            wait_s = _LONGEST_WAIT_S if due is None else min(max(0.0, due - now), _LONGEST_WAIT_S)
            if few:
                gather_s = min(wait_s, _GATHER_S)
                wait_s = 0.0 if others.poll(int(gather_s * 1000)) else wait_s - gather_s
            ready = {descriptor for descriptor, _ in all_sockets.poll(int(wait_s * 1000) + 1)}
            now = _clock()
            few = False
            if group in ready:
                packets = self._group.receive()
                session.receive_datagrams(packets, self._opener, now)
                few = self._group.is_drained and len(packets) < _FEW_PACKETS
            if control in ready:
                self._read_control(now)
            if self._connection.fileno() in ready:
                self._read_commands(now)
            if due is not None and now >= due:
                session.handle_timeout(now)
            for datagram in session.datagrams_to_send(now):
                with contextlib.suppress(OSError):  # lost on the way out is lost all the same
                    self._control.send(datagram)
            if self._parent_gone:
                return

    def _read_control(self, now: float) -> None:
        # ICMP errors (nobody listens there now, a firewall says no): the session's own timeout judges them
        with contextlib.suppress(OSError):
            for _ in range(_READS):
                self._session.receive_datagram(self._control.recv(2048), now)

    def _read_commands(self, now: float) -> None:
        try:
            while self._connection.poll():
                match self._connection.recv():
                    case Release(chunk=chunk, ok=ok):
                        self._session.release(chunk, ok, now)
                    case HeldUp(by=holdup):
                        self._session.held_up(holdup)
                    case SayDone():
                        self._session.finish(now)
                    case SayLeave(reason=reason):
                        self._session.leave(reason)
        except (EOFError, ConnectionError):
            self._parent_gone = True
            self._session.leave("its program ended")

    def _tell(self, now: float) -> None:
        """Pass on what happened, and the counters now and then."""
        messages: list[ReceiveMessage] = []
        for event in self._session.events():
            if isinstance(event, GroupSilent):
                self._group.join_again()
            else:
                messages.append(event)
        finished = self._session.all_held and not self._told_all
        if finished or self._session.closed or now >= self._statistics_at:
            self._statistics_at = now + _STATISTICS_S
            overruns = self._group.overruns()
            if overruns != self._overruns:
                self._overruns = overruns
                self._behind_until = now + _BEHIND_S
            self._session.falls_behind = now < self._behind_until
            messages.insert(0, self._session.statistics())
        if finished:
            self._told_all = True
            messages.append(AllReleased())
        for message in messages:
            self._connection.send(message)


def main() -> None:
    gc.freeze()  # what is there now stays; the loop makes no cycles
    connection, (ring,) = connection_of(sys.argv[1:])
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionError):  # the parent has gone: nobody to tell
        setup = connection.recv()
        try:
            ReceivingLoop(setup, ring, connection).run()
        except (CastError, ValueError, OverflowError, struct.error) as error:
            connection.send(SessionLost(str(error)))


if __name__ == "__main__":
    main()
