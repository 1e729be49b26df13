"""The sender's own process: `python -m imager.transport.send_process FD`, started by imager.transport.caster.

One thread, one loop: bursts to the group, datagrams of the control port, commands of the parent. Datagrams of the
control port are read a few a turn, whoever floods it; what that leaves behind, the kernel drops, and the protocol
takes it as loss. No protocol decision is taken here.
"""

import contextlib
import gc
import select
import sys
import time
from multiprocessing.connection import Connection

from imager.errors import CastError, ImagerError
from imager.multicast.erasure import load_code
from imager.multicast.events import SenderEvent, SenderStatistics, SessionEnded
from imager.multicast.layout import CastLayout, unpack_wanted
from imager.multicast.pace import IPV4_BYTES, IPV6_BYTES
from imager.multicast.payload import PayloadFiller
from imager.multicast.probe import PROBES
from imager.multicast.sender import SenderSession, SenderSettings
from imager.transport.caster import (
    Admit,
    Begin,
    LetEnd,
    Limit,
    Remove,
    SenderCommand,
    SenderReady,
    SenderSetup,
    Stop,
    Want,
)
from imager.transport.child import connection_of
from imager.transport.endpoint import GroupSender, open_control
from imager.wire.groups import is_ipv6
from imager.wire.session import PACKET_BYTES_RANGE, Phase

_SLEEP_OVERSHOOT_S = 60e-6
"""time.sleep takes about so much longer than asked."""
_SHORT_S = 0.002
"""Below this a wait is slept: a poll counts in milliseconds."""
_LONGEST_WAIT_S = 0.25
_READS = 64
"""Datagrams of the control port in one turn."""
_clock = time.monotonic


class SendingLoop:
    """Drives one session until it is closed or the parent has gone."""

    def __init__(self, setup: SenderSetup, connection: Connection) -> None:
        """Raises OSError when the group cannot be sent to, CastError when the control port cannot be had, ValueError
        for lengths or a bitmap that make no sense.
        """
        address, options = setup.address, setup.options
        self._layout = CastLayout(setup.source.stored_lengths, address.packet_bytes)
        settings = SenderSettings(
            address.session,
            setup.cast_key,
            options.silence_timeout_s,
            options.max_bitrate_bps,
            slow=options.slow,
            floor_bps=options.floor_bps,
            is_held=setup.is_held,
            fec_share=options.fec_share,
            probes=PROBES,
            ip_bytes=IPV6_BYTES if is_ipv6(address.group) else IPV4_BYTES,
        )
        wanted = unpack_wanted(setup.wanted, self._layout.chunk_count)
        self._session = SenderSession(self._layout, settings, wanted, _clock())
        self._filler = PayloadFiller(self._layout, setup.source.read_into, load_code())
        self._group = GroupSender(
            address.group, address.data_port, address.interface_address, options.ttl, packet_bytes=address.packet_bytes
        )
        self._control = open_control(address.interface_address, address.control_port)
        self._connection = connection
        self._poller = select.poll()
        self._poller.register(self._control.fileno(), select.POLLIN)
        self._poller.register(connection.fileno(), select.POLLIN)
        self._open = True
        self._abandoned = False

    @property
    def control_port(self) -> int:
        port: int = self._control.getsockname()[1]
        return port

    def run(self) -> None:
        """Until the session is closed or the parent has gone; the last event of a session is always sent."""
        error = ""
        try:
            while not (self._abandoned or self._session.closed):
                self._turn()
        except (ImagerError, OSError, ValueError) as failure:
            error = str(failure)
        if error:
            self._tell(SessionEnded(self._session.statistics(_clock()), error))
        self._group.close()
        self._control.close()

    def _turn(self) -> None:
        session = self._session
        burst = session.datagrams_to_send(_clock())
        if burst is not None:
            if burst.runs:
                self._filler.fill(burst)
            self._group.send(burst.packets)
        for data, target in session.replies():
            with contextlib.suppress(OSError):  # lost on the way out is lost all the same
                self._control.sendto(data, target)
        for event in session.events():
            self._tell(event)
        if session.closed:
            return
        self._take_arrivals(0 if burst is not None else self._wait_s())
        due = session.next_timeout()
        now = _clock()
        if due is not None and now >= due:
            session.handle_timeout(now)

    def _wait_s(self) -> float:
        due = self._session.next_timeout()
        return _LONGEST_WAIT_S if due is None else min(_LONGEST_WAIT_S, max(0.0, due - _clock()))

    def _take_arrivals(self, wait_s: float) -> None:
        """Hand over what has arrived; with nothing there, wait for it up to `wait_s`, where that is long."""
        if _SLEEP_OVERSHOOT_S < wait_s < _SHORT_S:
            time.sleep(wait_s - _SLEEP_OVERSHOOT_S)
        ready = {descriptor for descriptor, _ in self._poller.poll(wait_s * 1000 if wait_s >= _SHORT_S else 0)}
        if self._connection.fileno() in ready:  # first: a receiver is admitted before its first word is heard
            self._read_commands()
        if self._control.fileno() in ready:
            self._read_control()

    def _read_control(self) -> None:
        receive, session = self._control.recvfrom, self._session
        now = _clock()
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):
                data, source = receive(PACKET_BYTES_RANGE.stop)
                session.receive_datagram(data, source, now)

    def _read_commands(self) -> None:
        try:
            while self._connection.poll():
                self._obey(self._connection.recv())
        except (EOFError, OSError):
            # What is not ended goes on somewhere else, by who has it: the receivers are not told that it ended.
            self._poller.unregister(self._connection.fileno())
            self._abandoned = self._session.phase is not Phase.ENDED

    def _obey(self, command: SenderCommand) -> None:
        now = _clock()
        session = self._session
        match command:
            case Admit(receiver=receiver, control_key=control_key, wanted=wanted):
                bitmap = None if wanted is None else unpack_wanted(wanted, self._layout.chunk_count)
                session.admit(receiver, control_key, bitmap, now)
            case Begin():
                session.begin(now)
            case Remove(receiver=receiver, reason=reason):
                session.remove(receiver, reason, now)
            case Want(wanted=wanted):
                session.want(unpack_wanted(wanted, self._layout.chunk_count))
            case Limit(max_bitrate_bps=max_bitrate_bps):
                session.limit(max_bitrate_bps)
            case LetEnd():
                session.let_end(now)
            case Stop():
                session.stop(now)

    def _tell(self, event: SenderEvent) -> None:
        if self._open:
            try:
                self._connection.send(event)
            except OSError:  # the parent has gone
                self._open = False


def main() -> None:
    gc.freeze()  # what is there now stays: no need to look through it again
    connection, _ = connection_of(sys.argv[1:])
    try:
        setup = connection.recv()
    except EOFError:
        return
    try:
        loop = SendingLoop(setup, connection)
        connection.send(SenderReady(loop.control_port))
        loop.run()
    except (CastError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            connection.send(SessionEnded(SenderStatistics(), str(error)))


if __name__ == "__main__":
    main()
