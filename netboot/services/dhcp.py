"""The DHCP server or proxy on one interface: receives, asks the core, sends its answer. Takes no decision of its own.

An ACK leaves when its lease is on the disk: packets are taken in batches, and each batch's changes go to the journal
together. When the core wants to know whether an address is in use, the client waits for that probe alone.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import Protocol, runtime_checkable

import structlog

from netboot.dhcp.backlog import Backlog
from netboot.dhcp.leases import LeaseChange, LeaseTable
from netboot.dhcp.reply import Arrival, ProbeFirst, Reply
from netboot.errors import WireError
from netboot.model import Ignored
from netboot.persistence.lease_journal import LeaseJournal
from netboot.services.counters import PacketCounters
from netboot.services.dhcp_log import LeaseLog
from netboot.services.dhcp_sockets import DhcpSockets, Port
from netboot.services.interface import Interface
from netboot.services.lease_clock import LeaseClock
from netboot.services.probes import AHEAD_S, MOST_AT_ONCE, WAITING_S, AddressProbes
from netboot.wire.dhcp import DhcpPacket, parse_dhcp

_MAX_READ_PER_WAKE = 1024
_MAX_PER_WAKE = 64
"""Packets that are answered before other tasks get their turn."""
_BEHIND = "more is asked than can be answered"
_TELL_S = 60.0
"""That some are not answered is logged so often."""
_MOST_HELD = 4096
"""Answers that wait for the disk; a disk that is slower than its clients gets no more of them."""
_MOST_PROBES = 8
"""Addresses in use that one DISCOVER may meet before its client has to ask again."""
_AHEAD = 128
"""Addresses that are asked for ahead of need at a time,"""
_AHEAD_EVERY_S = 0.05
"""while machines ask for addresses; and every"""
_AHEAD_IDLE_S = 0.5

_log = structlog.get_logger(__name__)


class Responder(Protocol):
    """DhcpServer, DhcpProxy, or the one that is either."""

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored | ProbeFirst: ...


@runtime_checkable
class ProbingResponder(Protocol):
    """One that wants to know which addresses are in use."""

    def note_probe(self, address: IPv4Address, holder_mac: str | None, now: float) -> None: ...

    def addresses_to_probe(self, now: float, count: int) -> list[ProbeFirst]: ...


OnExchange = Callable[[DhcpPacket, Arrival, Reply | Ignored], None]
"""Told of every packet that parsed, after its answer went out: for the boot log. Must not block."""

OnJunk = Callable[[str, str], None]
"""Told of every datagram that did not: where it came from, and why. Must not block."""


_Read = tuple[Port, DhcpPacket, IPv4Address, int, IPv4Address]
"""A packet that was read: at which port, from which address and port, and to which address."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A packet that waits for its answer."""

    port: Port
    request: DhcpPacket
    arrival: Arrival
    probes: int = 0
    """Addresses that were asked for on its behalf."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An answer that waits for the disk."""

    asked: _Asked
    reply: Reply


class DhcpService:
    """Owns the sockets of one interface from `open` to `close`. `run` serves until it is cancelled."""

    def __init__(
        self,
        interface: Interface,
        responder: Responder,
        ports: tuple[int, ...],
        *,
        clock: Callable[[], float] | None = None,
        leases: LeaseTable | None = None,
        journal: LeaseJournal | None = None,
        counters: PacketCounters | None = None,
        on_exchange: OnExchange | None = None,
        on_junk: OnJunk | None = None,
    ) -> None:
        """`ports`: 67, and 4011 for a proxy.

        `clock` gives the seconds that leases are counted in (default: a LeaseClock that begins now). `leases`: the
        table that the responder writes to, whose changes `journal` brings to the disk; several interfaces may share
        both. Without them leases last as long as the process.
        """
        self._interface = interface
        self._responder = responder
        self._clock = clock or LeaseClock()
        self._leases = leases
        self._journal = journal
        self.counters = counters or PacketCounters()
        self._on_exchange = on_exchange
        self._on_junk = on_junk
        self._sockets = DhcpSockets(interface, ports)
        self._probing = responder if isinstance(responder, ProbingResponder) else None
        self._probes = AddressProbes(interface) if self._probing else None
        self._backlog: Backlog[_Read] = Backlog()
        self._more: asyncio.Handle | None = None
        self._behind_told_s = float("-inf")
        self._waiting: dict[IPv4Address, dict[str, _Asked]] = {}
        """By the address that is asked for: who is offered it when nobody has it."""
        self._waits_for: dict[str, IPv4Address] = {}
        self._changes: list[LeaseChange] = []
        self._to_hold: list[_Held] = []
        """Of the batch that is being taken."""
        self._held = 0
        self._ahead_due_s = 0.0
        self._told = LeaseLog(interface.name)
        self._is_verbose = _log.is_enabled_for(logging.DEBUG)

    def open(self) -> None:
        """Bind everything; ServiceError leaves nothing open."""
        self._sockets.open()
        if self._probes is not None:
            try:
                self._probes.open()
            except BaseException:
                self._sockets.close()
                raise

    def replace(self, responder: Responder) -> None:
        """Ask this one from now on; it must be of the same kind. What waits for a probe is answered by it too."""
        if isinstance(responder, ProbingResponder) != (self._probing is not None):
            raise ValueError("a responder that probes and one that does not cannot take each other's place")
        self._responder = responder
        self._probing = responder if isinstance(responder, ProbingResponder) else None

    async def run(self) -> None:
        """Serve; cancel to end. Call `open` first."""
        loop = asyncio.get_running_loop()
        for port in self._sockets.ports:
            loop.add_reader(port.sock, self._drain, port)
        if self._probes is not None:
            self._probes.start()
        _log.info("dhcp serving", interface=self._interface.name, mode=type(self._responder).__name__)
        try:
            while True:
                self._told.tell_rest(self._clock())
                is_filling = self._probe_ahead()
                await asyncio.sleep(_AHEAD_EVERY_S if is_filling else _AHEAD_IDLE_S)
        finally:
            for port in self._sockets.ports:
                loop.remove_reader(port.sock)
            if self._more is not None:
                self._more.cancel()

    def close(self) -> None:
        self._sockets.close()
        if self._probes is not None:
            self._probes.close()

    # Packets in

    def _drain(self, port: Port) -> None:
        """Read everything that waits: the socket cannot say what goes first."""
        for _ in range(_MAX_READ_PER_WAKE):
            try:
                received = port.receive()
            except OSError as error:  # the interface went down, or an ICMP error was waiting: the socket lives on
                self.counters.failed[f"receive: {error.strerror}"] += 1
                break
            if received is None:
                break
            self.counters.received += 1
            if received.is_cut:
                self._drop(str(received.source), "longer than any DHCP packet that is taken")
                continue
            try:
                request = parse_dhcp(received.data)
            except WireError as error:
                self._drop(str(received.source), str(error))
                continue
            read = (port, request, received.source, received.source_port, received.destination)
            self._not_answered(self._backlog.put(request.message_type, read, self._clock()))
        self._serve()

    def _serve(self) -> None:
        """Answer some of what waits; other tasks get their turn before the rest."""
        self._not_answered(self._backlog.take_late(self._clock()))
        for _ in range(_MAX_PER_WAKE):
            read = self._backlog.take()
            if read is None:
                break
            self._answer(self._asked(read))
        self._commit()
        self._probe_ahead()
        if self._backlog and self._more is None:
            self._more = asyncio.get_running_loop().call_soon(self._serve_more)

    def _serve_more(self) -> None:
        self._more = None
        self._serve()

    def _asked(self, read: _Read) -> _Asked:
        """Of now: the core's time never goes back, in whatever order packets are answered."""
        port, request, source, source_port, destination = read
        arrival = Arrival(self._clock(), source, source_port, destination, port.number)
        return _Asked(port, request, arrival)

    def _not_answered(self, late: list[_Read]) -> None:
        if not late:
            return
        for read in late:
            self._finish(self._asked(read), Ignored(_BEHIND))
        if (now := self._clock()) >= self._behind_told_s + _TELL_S:
            self._behind_told_s = now
            _log.warning("dhcp is behind", interface=self._interface.name, not_answered=self.counters.ignored[_BEHIND])

    def _drop(self, source: str, reason: str) -> None:
        self.counters.junk += 1
        if self._is_verbose:
            _log.debug("dhcp junk", source=source, reason=reason)
        if self._on_junk is not None:
            self._on_junk(source, reason)

    def _answer(self, asked: _Asked) -> None:
        """A boundary: one packet that cannot be answered does not end the service."""
        try:
            outcome = self._responder.respond(asked.request, asked.arrival)
            changes = self._leases.take_changes() if self._leases is not None else ()
            self._changes.extend(changes)
            if isinstance(outcome, ProbeFirst):
                self._probe_for(asked, outcome)
            elif isinstance(outcome, Reply) and (changes or outcome.is_promise):
                self._to_hold.append(_Held(asked, outcome))
            else:
                self._finish(asked, outcome)
        except Exception:
            self.counters.failed["answer"] += 1
            _log.exception("dhcp answer failed", mac=asked.request.mac)

    # What waits for the disk

    def _commit(self) -> None:
        changes, held = self._changes, self._to_hold
        if not changes and not held:
            return
        self._changes, self._to_hold = [], []
        if self._held + len(held) > _MOST_HELD:
            self.counters.failed["the disk is behind"] += len(held)
            held = []
        self._held += len(held)
        if self._journal is None:
            self._committed(held, True)
        else:
            self._journal.commit(changes, partial(self._committed, held))

    def _committed(self, held: list[_Held], is_durable: bool) -> None:
        self._held -= len(held)
        for each in held:
            if is_durable:
                self._finish(each.asked, each.reply)
            else:
                self.counters.failed["lease not written"] += 1
                self._finish(each.asked, Ignored("not answered: the lease cannot be written to the disk"))

    # What waits for a probe

    def _probe_for(self, asked: _Asked, probe: ProbeFirst) -> None:
        mac = asked.request.mac
        earlier = self._waits_for.pop(mac, None)
        if earlier is not None:  # a repeated DISCOVER takes the place of the one that waits
            self._waiting.get(earlier, {}).pop(mac, None)
        if asked.probes >= _MOST_PROBES:
            self._finish(asked, Ignored(f"every address that was asked for is in use: {asked.probes} were"))
            return
        if len(self._waits_for) >= MOST_AT_ONCE or not self._ask(probe, WAITING_S):
            self._finish(asked, Ignored("too many clients wait for the probe of their address"))
            return
        self._waiting.setdefault(probe.address, {})[mac] = replace(asked, probes=asked.probes + 1)
        self._waits_for[mac] = probe.address

    def _ask(self, probe: ProbeFirst, within_s: float) -> bool:
        """Whether the probe is under way."""
        assert self._probes is not None
        started = self._probes.ask(probe.address, probe.is_local, self._probed, within_s)
        return started or probe.address in self._probes

    def _probe_ahead(self) -> bool:
        """Whether addresses had to be asked for. Looks no more often than it has to."""
        if self._probing is None or self._probes is None or (now := self._clock()) < self._ahead_due_s:
            return False
        self._ahead_due_s = now + _AHEAD_EVERY_S
        started = 0
        for probe in self._probing.addresses_to_probe(now, _AHEAD + len(self._probes)):
            if probe.address not in self._probes:
                started += self._ask(probe, AHEAD_S)
            if started == _AHEAD:
                break
        return started > 0

    def _probed(self, address: IPv4Address, holder: str | None) -> None:
        assert self._probing is not None
        if holder is not None:
            self.counters.ignore("address in use by a stranger")
            _log.warning("address in use by a stranger: not offered", address=str(address), mac=holder or "unknown")
        now = self._clock()
        self._probing.note_probe(address, holder, now)
        if self._leases is not None:
            self._changes.extend(self._leases.take_changes())
        for mac, asked in self._waiting.pop(address, {}).items():
            if self._waits_for.get(mac) == address:
                del self._waits_for[mac]
            self._answer(replace(asked, arrival=replace(asked.arrival, now=now)))
        self._commit()

    # Answers out

    def _finish(self, asked: _Asked, outcome: Reply | Ignored) -> None:
        """A boundary, as `_answer` is."""
        try:
            if isinstance(outcome, Reply):
                self._sockets.send(asked.port, outcome)
            self._note(asked.request, outcome)
            if self._on_exchange is not None:
                self._on_exchange(asked.request, asked.arrival, outcome)
        except OSError as error:
            cause = f"send: {error.strerror}"
            self.counters.failed[cause] += 1
            if self.counters.failed[cause] == 1 or self._is_verbose:  # counted from then on: it may be every packet
                _log.warning("dhcp answer not sent", mac=asked.request.mac, cause=error.strerror)
        except Exception:
            self.counters.failed["answer"] += 1
            _log.exception("dhcp answer failed", mac=asked.request.mac)

    def _note(self, request: DhcpPacket, outcome: Reply | Ignored) -> None:
        if isinstance(outcome, Ignored):
            self.counters.ignore(outcome.reason)
            if self._is_verbose:
                _log.debug("dhcp ignored", packet=request.summary(), reason=outcome.reason)
            return
        kind = outcome.packet.message_type
        self.counters.answered[kind.name if kind else "BOOTP"] += 1
        self._told.answered(request, outcome, self._clock())
        if self._is_verbose:
            _log.debug("dhcp answered", packet=request.summary(), answer=outcome.packet.summary())
