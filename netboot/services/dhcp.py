"""The sockets of the DHCP server or proxy: receives, asks the core, sends its answer. Takes no decision of its own.

Port 67 of one interface, and 4011 when the core is a proxy. Every answer goes out through the interface that it serves.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

import structlog

from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import SERVER_PORT, Arrival, Delivery, Destination, ProbeFirst, Reply
from netboot.errors import ServiceError, WireError
from netboot.model import BootFile, Ignored
from netboot.services.counters import PacketCounters
from netboot.services.interface import Interface, bind_udp
from netboot.wire.dhcp import DhcpPacket, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import MessageType
from netboot.wire.frame import build_udp_frame
from netboot.wire.pxe import PXE_PORT

_MAX_DATAGRAM_BYTES = 4096
_MAX_PER_WAKE = 64
"""Packets that are answered before other tasks get their turn."""
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_PKTINFO = struct.Struct("=I4s4s")
_RECEIVE_BUFFER_BYTES = 1 << 20
"""A room that is switched on at once sends a few hundred packets in a blink."""

_log = structlog.get_logger(__name__)


class Responder(Protocol):
    """DhcpServer or DhcpProxy."""

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored | ProbeFirst: ...


OnExchange = Callable[[DhcpPacket, Arrival, Reply | Ignored], None]
"""Told of every packet that parsed, after its answer went out: for the boot log. Must not block."""


class LeaseClock:
    """Wall-clock seconds at start, steady from then on: setting the clock of a running appliance frees no lease."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() + self._offset_s


@dataclass(slots=True)
class _Socket:
    sock: socket.socket
    port: int


class DhcpService:
    """Owns the sockets of one interface from `open` to `close`. `run` serves until it is cancelled."""

    def __init__(
        self,
        interface: Interface,
        responder: Responder,
        *,
        clock: Callable[[], float] | None = None,
        counters: PacketCounters | None = None,
        on_exchange: OnExchange | None = None,
    ) -> None:
        self._interface = interface
        self._responder = responder
        self._clock = clock or LeaseClock()
        self.counters = counters or PacketCounters()
        self._on_exchange = on_exchange
        self._sockets: list[_Socket] = []
        self._raw: socket.socket | None = None

    def open(self) -> None:
        """Bind everything; ServiceError leaves nothing open."""
        ports = (SERVER_PORT, PXE_PORT) if isinstance(self._responder, DhcpProxy) else (SERVER_PORT,)
        try:
            for port in ports:
                self._sockets.append(_Socket(_open_port(self._interface, port), port))
            self._raw = _open_raw(self._interface)
        except ServiceError:
            self.close()
            raise

    async def run(self) -> None:
        """Serve; cancel to end. Call `open` first."""
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            loop.add_reader(each.sock, self._drain, each)
        _log.info("dhcp serving", interface=self._interface.name, mode=type(self._responder).__name__)
        try:
            await loop.create_future()
        finally:
            for each in self._sockets:
                loop.remove_reader(each.sock)

    def close(self) -> None:
        for each in self._sockets:
            each.sock.close()
        self._sockets.clear()
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def _drain(self, each: _Socket) -> None:
        for _ in range(_MAX_PER_WAKE):
            try:
                data, ancillary, flags, source = each.sock.recvmsg(
                    _MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(_PKTINFO.size)
                )
            except BlockingIOError:
                return
            except OSError as error:  # the interface went down, or an ICMP error was waiting: the socket lives on
                self.counters.failed[f"receive: {error.strerror}"] += 1
                return
            self.counters.received += 1
            if flags & socket.MSG_TRUNC:
                self.counters.junk += 1
                continue
            try:
                request = parse_dhcp(data)
            except WireError as error:
                self.counters.junk += 1
                _log.debug("dhcp junk", source=source[0], reason=str(error))
                continue
            destination = _destination_of(ancillary)
            arrival = Arrival(self._clock(), IPv4Address(source[0]), source[1], destination, each.port)
            self._answer(each, request, arrival)

    def _answer(self, each: _Socket, request: DhcpPacket, arrival: Arrival) -> None:
        """A boundary: one packet that cannot be answered, or a database that is away, does not end the service."""
        try:
            outcome = self._responder.respond(request, arrival)
            assert not isinstance(outcome, ProbeFirst), "no configuration asks for probes"
            if isinstance(outcome, Reply):
                self._send(each, outcome)
            self._note(request, outcome)
            if self._on_exchange is not None:
                self._on_exchange(request, arrival, outcome)
        except OSError as error:
            self.counters.failed[f"send: {error.strerror}"] += 1
            _log.warning("dhcp answer not sent", mac=request.mac, cause=error.strerror)
        except Exception:
            self.counters.failed["answer"] += 1
            _log.exception("dhcp answer failed", mac=request.mac)

    def _note(self, request: DhcpPacket, outcome: Reply | Ignored) -> None:
        if isinstance(outcome, Ignored):
            self.counters.ignore(outcome.reason)
            _log.debug("dhcp ignored", packet=request.summary(), reason=outcome.reason)
            return
        kind = outcome.packet.message_type
        self.counters.answered[kind.name if kind else "BOOTP"] += 1
        if kind is MessageType.ACK and request.message_type is MessageType.REQUEST:
            given = str(outcome.packet.yiaddr)
            boot = outcome.boot.name if isinstance(outcome.boot, BootFile) else outcome.boot.reason
            _log.info("dhcp lease", mac=request.mac, address=given, boot=boot)
        elif kind is MessageType.NAK:
            reason = outcome.boot.reason if isinstance(outcome.boot, Ignored) else ""
            _log.info("dhcp refused", mac=request.mac, reason=reason)
        _log.debug("dhcp answered", packet=request.summary(), answer=outcome.packet.summary())

    def _send(self, each: _Socket, reply: Reply) -> None:
        payload = build_dhcp(reply.packet)
        to = reply.destination
        if to.delivery is Delivery.RAW:
            self._send_frame(payload, to, each.port)
        else:
            each.sock.sendto(payload, (str(to.address), to.port))

    def _send_frame(self, payload: bytes, to: Destination, source_port: int) -> None:
        assert self._raw is not None
        frame = build_udp_frame(
            payload,
            source_mac=self._interface.mac,
            destination_mac=to.mac,
            source=self._interface.address,
            source_port=source_port,
            destination=to.address,
            destination_port=to.port,
        )
        self._raw.send(frame)


async def serve_dhcp(
    interface: Interface,
    responder: Responder,
    *,
    clock: Callable[[], float] | None = None,
    counters: PacketCounters | None = None,
    on_exchange: OnExchange | None = None,
    ready: asyncio.Event | None = None,
) -> None:
    """Serve until cancelled. ServiceError before `ready` is set when a port cannot be had.

    `clock` gives the seconds that leases are counted in; it must not run backwards across a restart by more than the
    leases may lose (default: LeaseClock).
    """
    service = DhcpService(interface, responder, clock=clock, counters=counters, on_exchange=on_exchange)
    service.open()
    try:
        if ready is not None:
            ready.set()
        await service.run()
    finally:
        service.close()


def _open_port(interface: Interface, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        # Not bound to the interface's address: such a socket receives no broadcast.
        bind_udp(sock, interface, IPv4Address(0), port, "DHCP" if port == SERVER_PORT else "PXE")
    except BaseException:
        sock.close()
        raise
    return sock


def _open_raw(interface: Interface) -> socket.socket:
    try:
        # Protocol 0: it sends, and receives nothing.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise ServiceError("no right to send raw frames: run as root or with CAP_NET_RAW") from None
    try:
        sock.bind((interface.name, 0))
    except OSError as error:
        sock.close()
        raise ServiceError(f"raw frames cannot be sent on {interface.name}: {error.strerror}") from None
    return sock


def _destination_of(ancillary: list[tuple[int, int, bytes]]) -> IPv4Address:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            return IPv4Address(_PKTINFO.unpack_from(data)[2])
    return IPv4Address(0)
