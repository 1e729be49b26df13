"""The sender's own process: `python -m imager.transport.send_process FD`, started by imager.transport.caster.

The main thread runs asyncio for what comes seldom: datagrams of the control port, commands of the parent. A second
thread drives the session and sends. Between them stands a bounded queue; when it is full, datagrams are dropped and
counted, which the protocol takes as loss. No protocol decision is taken here.
"""

import asyncio
import contextlib
import functools
import gc
import queue
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import asyncio_dgram
from asyncio_dgram.aio import DatagramServer, TransportClosed

from imager.errors import CastError, ImagerError
from imager.multicast.erasure import load_code
from imager.multicast.events import SenderEvent, SenderStatistics, SessionEnded
from imager.multicast.layout import CastLayout, unpack_wanted
from imager.multicast.payload import PayloadFiller
from imager.multicast.roster import Address
from imager.multicast.sender import SenderSession, SenderSettings
from imager.transport.caster import Admit, Begin, Remove, SenderCommand, SenderReady, SenderSetup, Stop
from imager.transport.child import connection_of
from imager.transport.endpoint import GroupSender, open_control
from imager.wire.session import Phase

_QUEUE_ENTRIES = 4096
_SLEEP_OVERSHOOT_S = 60e-6
"""time.sleep takes about so much longer than asked."""


@dataclass(frozen=True, slots=True)
class _ParentGone:
    """The other end of the connection was closed without a Stop."""


Arrival = tuple[bytes, Address] | SenderCommand | _ParentGone
_clock = time.monotonic


class SendingLoop:
    """Drives one session from its thread until it is closed."""

    def __init__(
        self, setup: SenderSetup, arrivals: "queue.Queue[Arrival]", connection: Connection, reply: "ReplyCallback"
    ) -> None:
        """Raises OSError when the group cannot be sent to, ValueError for lengths or a bitmap that make no sense."""
        self._layout = CastLayout(setup.source.stored_lengths)
        options = setup.options
        settings = SenderSettings(setup.address.session, options.silence_timeout_s, options.max_bitrate_bps)
        now = _clock()
        wanted = unpack_wanted(setup.wanted, self._layout.chunk_count)
        self._session = SenderSession(self._layout, settings, wanted, now)
        for receiver in setup.expected:
            # what an expected receiver wants is in the plan already
            self._session.admit(receiver, wanted, now)
        self._filler = PayloadFiller(self._layout, setup.source.read, load_code())
        address = setup.address
        self._group = GroupSender(address.group, address.data_port, address.interface_address, options.ttl)
        self._arrivals = arrivals
        self._connection = connection
        self._reply = reply
        self._open = True
        self._abandoned = False

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

    def _turn(self) -> None:
        session = self._session
        now = _clock()
        burst = session.datagrams_to_send(now)
        if burst is not None:
            if burst.runs:
                self._filler.fill(burst)
            self._group.send(burst.packets)
        for data, target in session.replies():
            self._reply(data, target)
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
        return 0.25 if due is None else max(0.0, due - _clock())

    def _take_arrivals(self, wait_s: float) -> None:
        """Hand over what has arrived; with nothing there, wait for it up to `wait_s`."""
        arrivals = self._arrivals
        if arrivals.empty():
            if wait_s <= 0:
                return
            if wait_s < 0.002:  # too short for a wait on a lock, which overshoots by more
                if wait_s > _SLEEP_OVERSHOOT_S:
                    time.sleep(wait_s - _SLEEP_OVERSHOOT_S)
                return
            with contextlib.suppress(queue.Empty):
                self._take(arrivals.get(timeout=wait_s))
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(arrivals.get_nowait())

    def _take(self, arrival: Arrival) -> None:
        now = _clock()
        session = self._session
        match arrival:
            case Admit(receiver=receiver, wanted=wanted):
                bitmap = None if wanted is None else unpack_wanted(wanted, self._layout.chunk_count)
                session.admit(receiver, bitmap, now)
            case Begin():
                session.begin(now)
            case Remove(receiver=receiver, reason=reason):
                session.remove(receiver, reason, now)
            case Stop():
                session.stop(now)
            case _ParentGone():
                # what was ended before that is still announced
                self._abandoned = session.phase is not Phase.ENDED
            case (data, source):
                session.receive_datagram(data, source, now)

    def _tell(self, event: SenderEvent) -> None:
        if self._open:
            try:
                self._connection.send(event)
            except OSError:  # the parent has gone
                self._open = False


class ReplyCallback:
    """Sends a unicast datagram from the control port, called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: DatagramServer) -> None:
        self._loop = loop
        self._stream = stream

    def __call__(self, data: bytes, target: Address) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: so has the session
            asyncio.run_coroutine_threadsafe(self._send(data, target), self._loop)

    async def _send(self, data: bytes, target: Address) -> None:
        # the stream tells the failure of one datagram at the next, which it then does not send
        for _ in range(2):
            with contextlib.suppress(OSError, TransportClosed):
                return await self._stream.send(data, target)


async def _read_control(stream: DatagramServer, arrivals: "queue.Queue[Arrival]") -> None:
    while True:
        try:
            data, source = await stream.recv()
        except OSError:  # an answer that found no way out, told late: not of this datagram
            continue
        assert isinstance(source, tuple)  # of an IPv4 socket
        with contextlib.suppress(queue.Full):
            arrivals.put_nowait((data, (source[0], source[1])))


def _read_commands(connection: Connection, arrivals: "queue.Queue[Arrival]", loop: asyncio.AbstractEventLoop) -> None:
    """What the parent says. A parent that is gone has ended nothing: its successor may go on with the session, so the
    sending stops without telling the receivers that it ended.
    """
    try:
        while connection.poll():
            _put(arrivals, connection.recv())
    except (EOFError, OSError):
        loop.remove_reader(connection.fileno())
        _put(arrivals, _ParentGone())


def _put(arrivals: "queue.Queue[Arrival]", command: "SenderCommand | _ParentGone") -> None:
    """A command is not dropped as a datagram is: the sending loop empties the queue within milliseconds."""
    with contextlib.suppress(queue.Full):  # the sending loop has ended
        arrivals.put(command, timeout=5)


async def _serve(connection: Connection, setup: SenderSetup) -> None:
    loop = asyncio.get_running_loop()
    arrivals: queue.Queue[Arrival] = queue.Queue(_QUEUE_ENTRIES)
    control = open_control(setup.address.interface_address, setup.address.control_port)
    stream = await asyncio_dgram.from_socket(control)
    assert isinstance(stream, DatagramServer)  # as it is not connected
    sending = SendingLoop(setup, arrivals, connection, ReplyCallback(loop, stream))
    connection.send(SenderReady(control.getsockname()[1]))
    loop.add_reader(connection.fileno(), functools.partial(_read_commands, connection, arrivals, loop))
    thread = threading.Thread(target=sending.run, name="sending")
    thread.start()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_read_control(stream, arrivals))
        await asyncio.to_thread(thread.join)
        reading.cancel()
    stream.close()


def main() -> None:
    gc.freeze()  # what is there now stays: no need to look through it again
    connection, _ = connection_of(sys.argv[1:])
    try:
        setup = connection.recv()
    except EOFError:
        return
    try:
        asyncio.run(_serve(connection, setup))
    except (CastError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            connection.send(SessionEnded(SenderStatistics(), str(error)))


if __name__ == "__main__":
    main()
