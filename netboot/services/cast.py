"""[S] The running casts: one sender process a session, its receivers admitted as they become ready.

Takes no protocol decision: the sender process has the protocol, OpenCast says when the first pass starts.
"""

import asyncio
import contextlib
import errno
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from imager.errors import CastError, ImagerError
from imager.image.manifest import Manifest
from imager.image.plan import build_bitmap, count_lacking
from imager.multicast.events import (
    PhaseChanged,
    RateChanged,
    RateReason,
    ReceiverCounts,
    ReceiverDemoted,
    ReceiverDone,
    ReceiverFailed,
    ReceiverJoined,
    ReceiverProbed,
    ReceiverProgress,
    SenderEvent,
    SessionEnded,
)
from imager.transport.caster import CastProcess, SenderAddress, SenderOptions
from imager.transport.group_socket import family_of, socket_address
from imager.transport.interfaces import USUAL_MTU, address_for, group_packet_bytes, interface_of
from imager.wire.groups import is_ipv6
from imager.wire.messages import Admission, CastAddress
from imager.wire.session import MAX_RECEIVER
from netboot.config import CONTROL_PORT_BASE, CONTROL_PORTS
from netboot.deployment.grouping import share_bitrate
from netboot.deployment.images import Images
from netboot.deployment.records import Session
from netboot.errors import ConflictError
from netboot.model import SessionState
from netboot.services.open_cast import OpenCast, add_counters, end_process

TICK_S = 0.5
"""How often a session is looked at when its sender says nothing."""
NEVER_S = 1e7
"""Silence that the sender itself forgives: the watch over tasks fails silent machines, and knows who only scans."""
_FULL = (
    f"machines were admitted {MAX_RECEIVER} times, which is all that one cast can number: "
    "open another session for machines that shall receive a cast"
)
FETCHING_S = 5.0
"""A session whose machines fetched chunks so lately has its part of the total for that."""

log = structlog.get_logger()


class CastListener(Protocol):
    """Hears what happens in the casts."""

    async def began(self, session_id: int) -> None:
        """The first pass has started."""

    async def told(self, session_id: int, receiver: int, text: str) -> None:
        """Something worth keeping happened to a receiver."""

    async def counted(self, session_id: int, receiver: int, lost_packets: int) -> None:
        """What a receiver reported to have lost."""

    async def paced(self, session_id: int, sent_bps: float, reason: RateReason) -> None:
        """How fast is sent, in bits of frames a second, and why not faster."""

    async def broke(self, session_id: int, receivers: Sequence[int], reason: str) -> None:
        """These receivers will not get the rest."""


class CastService:
    """Holds the sender processes. `run` must be running while sessions are open; `close_all` ends them."""

    def __init__(
        self,
        images: Images,
        clock: Callable[[], float],
        control_port_base: int = CONTROL_PORT_BASE,
        total_bps: Callable[[], int] = lambda: 0,
        ttl: int = 1,
        mtu: int = USUAL_MTU,
    ) -> None:
        """`total_bps`, asked for each time: what all sessions may send at most; 0: no limit. `ttl`: routers that casts
        may pass, and one. `mtu`: the longest packets that every machine gets.
        """
        self._images = images
        self._clock = clock
        self._control_port_base = control_port_base
        self._total_bps = total_bps
        self._ttl = ttl
        self._mtu = mtu
        self._promised: set[int] = set()
        """Control ports that machines were told, or will be: each is one session's, whatever its interface."""
        self._casts: dict[int, OpenCast] = {}
        self._wake = asyncio.Event()

    async def open(self, session: Session, manifest: Manifest, receivers: list[int], sender: str) -> None:
        """Start the sender of a session, at the address `sender` of ours; it waits for its receivers.

        Raises CastError and StoreError.
        """
        chunks = await self._images.chunks(manifest)
        goes_on = session.state is SessionState.SENDING
        cast = OpenCast(session, chunks, set(receivers), sender, session.max_bitrate_bps, goes_on)
        if not session.unicast:
            await self._start(cast)
        self._casts[session.id] = cast

    def sender(self, session_id: int) -> str | None:
        """The address of ours that a session is sent from; None when it is not open."""
        cast = self._casts.get(session_id)
        return cast.sender if cast is not None else None

    async def ready(self, session_id: int, receiver: int, wanted: bytes) -> Admission:
        """Admit a receiver that lacks the chunks whose bit is set; one that lacks none needs no sender.

        Each time it gets a number and a key of its own, which nobody had before.
        """
        cast = self._casts.get(session_id)
        if cast is None:
            raise ConflictError(f"session {session_id} is not open")
        async with cast.lock:
            cast.ready.add(receiver)
            cast.gone.discard(receiver)
            cast.served.discard(receiver)
            admission = Admission()
            cast.note_lacking(receiver, wanted)
            if cast.process is not None and cast.process.is_full and not cast.may_end:
                cast.unicast.setdefault(receiver, _FULL)
            if not count_lacking(wanted):
                cast.remove(receiver, "it holds every chunk")
                cast.served.add(receiver)
                cast.let_end()
            elif cast.session.unicast or receiver in cast.unicast:
                cast.remove(receiver, "it fetches its chunks")
                cast.receiving.discard(receiver)
                cast.served.add(receiver)
                cast.let_end()
                admission = Admission(unicast=True, reason=cast.unicast.get(receiver, "this session casts nothing"))
            else:
                admission = Admission(await self._admit(cast, receiver, wanted))
            if cast.first_ready_s is None:
                cast.first_ready_s = self._clock()
        self._wake.set()
        return admission

    def listens(self, session_id: int, receiver: int, number: int) -> bool:
        """Whether the cast of this number goes on, and waits for this receiver."""
        cast = self._casts.get(session_id)
        if cast is None:
            return False
        return cast.process is not None and cast.process.session == number and receiver in cast.numbers

    def serve_by_unicast(self, session_id: int, receiver: int, reason: str) -> None:
        """No cast reaches this receiver: it fetches its chunks when it is ready the next time, which is soon."""
        cast = self._casts.get(session_id)
        if cast is not None and receiver not in cast.unicast:
            cast.unicast[receiver] = reason
            cast.remove(receiver, reason)
            cast.let_end()

    async def pace_unicast(self, session_id: int, length_bytes: int) -> None:
        """Wait until so much may be sent to one machine."""
        cast = self._casts.get(session_id)
        if cast is None:
            return
        cast.totals["unicast_bytes"] = cast.totals.get("unicast_bytes", 0) + length_bytes
        now = self._clock()
        if now - cast.fetched_s > FETCHING_S:
            cast.fetched_s = now
            self._share()
        cast.fetched_s = now
        if cast.unicast_bps:
            due = max(cast.unicast_due_s, now)
            cast.unicast_due_s = due + length_bytes * 8 / cast.unicast_bps
            await asyncio.sleep(due - now)

    def _share(self) -> None:
        """Divide the appliance's total among what sends now. A session's own limit is for its cast and its fetchers."""
        limits: dict[tuple[int, bool], int] = {}
        now = self._clock()
        for session_id, cast in self._casts.items():
            sends = cast.process is not None and cast.begun and bool(cast.receiving)
            ways = [
                unicast for unicast, active in ((False, sends), (True, now - cast.fetched_s <= FETCHING_S)) if active
            ]
            for unicast in ways:
                limits[session_id, unicast] = cast.session.max_bitrate_bps // len(ways)
        for (session_id, unicast), bps in share_bitrate(self._total_bps(), limits).items():
            cast = self._casts[session_id]
            if unicast:
                cast.unicast_bps = bps
            elif cast.total_bps != bps:
                cast.total_bps = bps
                assert cast.process is not None
                cast.process.limit(bps)

    async def leave(self, session_id: int, receiver: int, reason: str) -> None:
        """Nobody waits for this receiver any more."""
        cast = self._casts.get(session_id)
        if cast is None:
            return
        async with cast.lock:
            if receiver not in cast.ready:
                cast.gone.add(receiver)
            cast.joined.discard(receiver)
            if receiver not in cast.served:
                cast.remove(receiver, reason)
            cast.served.add(receiver)
            cast.receiving.discard(receiver)
            cast.let_end()
        self._wake.set()

    async def close(self, session_id: int) -> dict[str, float]:
        """End the sender; what it counted in all."""
        cast = self._casts.pop(session_id, None)
        if cast is None:
            return {}
        async with cast.lock:
            await self._stop(cast)
        self._promised.discard(cast.control_port)
        return cast.totals

    async def close_all(self) -> None:
        for session_id in list(self._casts):
            await self.close(session_id)

    async def run(self, listener: CastListener) -> None:
        """Tell the listener what happens, for ever. One session's failure is that session's alone."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            self._wake.clear()
            for session_id, cast in list(self._casts.items()):
                try:
                    await self._look(session_id, cast, listener)
                except Exception as error:
                    log.exception("cast failed", session=session_id)
                    try:
                        await listener.broke(session_id, sorted(cast.expected), f"the appliance failed: {error}")
                    except Exception:
                        log.exception("cast's failure was not noted; the other casts go on", session=session_id)
            self._share()

    async def _look(self, session_id: int, cast: OpenCast, listener: CastListener) -> None:
        async with cast.lock:
            process = cast.process
            events: Iterable[SenderEvent] = process.events() if process else ()
            for event in events:
                if isinstance(event, SessionEnded):
                    # Now, not when it is heard: the session may be closed while the listener takes its time.
                    add_counters(cast.totals, event.statistics)
                    cast.counted = True
        for event in events:
            if cast.process is process:  # else its receivers have been admitted to another cast meanwhile
                await self._hear(session_id, cast, event, listener)
        async with cast.lock:
            if cast.begun or not cast.may_begin(self._clock()):
                return
            cast.begun = True
            if cast.process is not None:
                cast.process.begin()
            told, cast.told_begun = cast.told_begun, True
        log.info("cast begins", session=session_id, receivers=len(cast.numbers), expected=len(cast.expected))
        if not told:
            await listener.began(session_id)

    async def _hear(self, session_id: int, cast: OpenCast, event: SenderEvent, listener: CastListener) -> None:
        receivers = {number: receiver for receiver, number in cast.numbers.items()}
        match event:
            case SessionEnded(statistics, error, died):
                async with cast.lock:
                    if cast.counted:  # else another cast has begun
                        await self._drop(cast)
                    again = died and cast.may_live_again(self._clock())
                    lost, cast.receiving = sorted(cast.receiving), set()
                log.info("sender ended", session=session_id, error=error, sent_bytes=statistics.sent_bytes)
                if again:
                    for each in lost:
                        await listener.told(session_id, each, "waits for a sender: the one before died")
                elif error:
                    await listener.broke(session_id, lost, f"sending broke off: {error}")
                return
            case PhaseChanged():
                return
            case RateChanged(sent_bps=sent_bps, reason=limit):
                if limit.receiver is not None:
                    limit = replace(limit, receiver=receivers.get(limit.receiver))
                await listener.paced(session_id, sent_bps, limit)
                return
        receiver = receivers.get(event.receiver)
        if receiver is None:  # it has been admitted anew since
            return
        match event:
            case ReceiverJoined(_, address):
                cast.joined.add(receiver)
                await listener.told(session_id, receiver, f"receives the cast at {address}")
            case ReceiverProbed():
                await listener.told(session_id, receiver, event.words)
            case ReceiverProgress():
                await listener.counted(session_id, receiver, event.lost_packets)
            case ReceiverDone():
                cast.receiving.discard(receiver)
                cast.served.add(receiver)
                cast.let_end()
                await listener.told(session_id, receiver, "has every chunk")
            case ReceiverDemoted(_, reason):
                await listener.told(session_id, receiver, f"is slow, and gets the rest after the others: {reason}")
            case ReceiverCounts(_, reason):
                await listener.told(session_id, receiver, f"is served like the others: {reason}")
            case ReceiverFailed(_, reason, is_final=True):
                await listener.broke(session_id, [receiver], reason)
            case ReceiverFailed(_, reason):
                # Its agent tells the same, or is silent and fails by the watch, or comes back and is admitted anew.
                if receiver in cast.receiving:
                    cast.receiving.discard(receiver)
                    await listener.told(session_id, receiver, f"left the cast: {reason}")

    async def _admit(self, cast: OpenCast, receiver: int, wanted: bytes) -> CastAddress:
        """Let a receiver in, by a new sender when there is none that goes on. The cast is locked by who calls."""
        if cast.may_end:
            await self._stop(cast)
        if cast.process is None:
            await self._start(cast)
        assert cast.process is not None
        cast.remove(receiver, "it came again")
        address = cast.process.admit(wanted)
        cast.numbers[receiver] = address.receiver
        cast.joined.discard(receiver)
        cast.receiving.add(receiver)
        if cast.begun:
            cast.process.begin()
        return address

    async def _start(self, cast: OpenCast) -> None:
        """A new sender process, which is a new cast: who was admitted to one before is admitted anew.

        It does not end by itself while machines may still come.
        """
        if cast.control_port:
            process = await self._start_at(cast, cast.control_port)
        else:
            process = await self._start_in_range(cast)
        cast.counted = cast.may_end = cast.begun = False
        cast.goes_on |= cast.told_begun
        cast.awaited = set(cast.ready or cast.expected)
        cast.first_ready_s = None
        cast.started_s = self._clock()
        cast.numbers.clear()
        cast.joined.clear()
        cast.process, cast.control_port = process, process.control_port
        asyncio.get_running_loop().add_reader(process.fileno(), self._wake.set)

    async def _start_in_range(self, cast: OpenCast) -> CastProcess:
        """A sender at a control port that nobody has.

        The first one tried follows from the session's number, so that the sender of a restarted appliance is found
        where the last one was.
        """
        address = await asyncio.to_thread(_own_address, cast)
        for step in range(CONTROL_PORTS):
            port = self._control_port_base + (cast.session.number + step) % CONTROL_PORTS
            if port in self._promised or not _is_free(address, port):
                continue
            self._promised.add(port)
            try:
                return await self._start_at(cast, port)
            except BaseException as error:
                self._promised.discard(port)
                if not isinstance(error, CastError) or _is_free(address, port):  # it was not the port
                    raise
        last = self._control_port_base + CONTROL_PORTS - 1
        raise CastError(
            f"UDP ports {self._control_port_base} to {last} of {address} are all in use: wait for a session to "
            "end, or set another control-port-base"
        )

    async def _start_at(self, cast: OpenCast, control_port: int) -> CastProcess:
        session = cast.session
        address = await asyncio.to_thread(_own_address, cast)
        process = CastProcess(
            cast.source,
            SenderAddress(
                secrets.randbits(32),
                session.group,
                session.data_port,
                address,
                control_port,
                group_packet_bytes(address, self._mtu),
            ),
            SenderOptions(
                max_bitrate_bps=cast.total_bps,
                silence_timeout_s=NEVER_S,
                ttl=self._ttl,
                slow=session.slow,
                floor_bps=session.floor_bps,
            ),
            build_bitmap((), len(cast.source.stored_lengths)),
            is_held=True,
        )
        try:
            await asyncio.to_thread(process.start)
        except ImagerError:
            await asyncio.to_thread(process.stop)
            raise
        return process

    async def _drop(self, cast: OpenCast) -> None:
        """Clean up after a process that has ended."""
        process, cast.process = cast.process, None
        if process is not None:
            asyncio.get_running_loop().remove_reader(process.fileno())
            await asyncio.to_thread(process.stop)

    async def _stop(self, cast: OpenCast) -> None:
        process, cast.process = cast.process, None
        if process is None:
            return
        asyncio.get_running_loop().remove_reader(process.fileno())
        statistics = await asyncio.to_thread(end_process, process, cast.begun and not cast.counted)
        if statistics is not None:
            add_counters(cast.totals, statistics)


def _own_address(cast: OpenCast) -> str:
    """That the cast is sent from, of its group's IP version. Raises CastError when there is none."""
    if not is_ipv6(cast.session.group):
        return cast.sender
    return address_for(cast.session.group, interface_of(cast.sender))


def _is_free(address: str, port: int) -> bool:
    """Whether no program has this UDP port; an address that is not ours is for the sender to tell."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(socket_address(address, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        return True
