"""Asks the network whether somebody has an address: by ARP in the interface's own network, else by ICMP echo.

Many at once, each asked twice within its time. Decides nothing: who answered is told to whoever asked.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog

from imager.transport.endpoint import set_buffer
from netboot.errors import ServiceError, WireError
from netboot.services.interface import Interface
from netboot.wire.arp import ETHERTYPE_ARP, build_arp_probe, parse_arp
from netboot.wire.icmp import ECHO_REPLY, build_echo_request, parse_echo_reply

WAITING_S = 0.1
"""How long an answer may take when a client waits for its offer."""
AHEAD_S = 0.25
"""And when nobody does."""
AGAIN = 0.4
"""The second request leaves after this share of the time: one packet that is lost does not give an address twice."""
MOST_AT_ONCE = 2048
_MAX_PER_WAKE = 128
_MAX_FRAME_BYTES = 128
_SOL_RAW = 255  # linux/socket.h
_ICMP_FILTER = 1  # linux/icmp.h
_RECEIVE_BUFFER_BYTES = 1 << 20

_log = structlog.get_logger()

OnProbed = Callable[[IPv4Address, str | None], None]
"""Told how a probe ended: None, nobody answered; else the MAC of who did, empty when it is not known."""


@dataclass(slots=True)
class _Probe:
    address: IPv4Address
    is_local: bool
    on_probed: OnProbed
    number: int
    ends_s: float
    again: asyncio.TimerHandle
    end: asyncio.TimerHandle


class AddressProbes:
    """The probes of one interface, from `open` to `close`; sockets need CAP_NET_RAW."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._probes: dict[IPv4Address, _Probe] = {}
        self._arp: socket.socket | None = None
        self._icmp: socket.socket | None = None
        self._identifier = os.getpid() & 0xFFFF
        self._number = 0

    def __len__(self) -> int:
        return len(self._probes)

    def __contains__(self, address: object) -> bool:
        return address in self._probes

    def open(self) -> None:
        """ServiceError leaves nothing open."""
        name = self._interface.name
        try:
            self._arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
            set_buffer(self._arp, True, _RECEIVE_BUFFER_BYTES)
            self._arp.bind((name, ETHERTYPE_ARP))
            self._icmp = socket.socket(
                socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP
            )
            self._icmp.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF))
        except PermissionError:
            self.close()
            raise ServiceError("no right to ask who has an address: run as root or with CAP_NET_RAW") from None
        except OSError as error:
            self.close()
            raise ServiceError(f"addresses cannot be asked for on {name}: {error.strerror}") from None

    def start(self) -> None:
        """Listen for answers, on the running event loop; `close` ends it."""
        assert self._arp is not None and self._icmp is not None
        loop = asyncio.get_running_loop()
        loop.add_reader(self._arp, self._drain_arp, self._arp)
        loop.add_reader(self._icmp, self._drain_icmp, self._icmp)

    def close(self) -> None:
        """Probes under way end without being told."""
        for probe in self._probes.values():
            probe.again.cancel()
            probe.end.cancel()
        self._probes.clear()
        for sock in (self._arp, self._icmp):
            if sock is not None:
                if sock.fileno() >= 0:
                    try:
                        asyncio.get_running_loop().remove_reader(sock)
                    except RuntimeError:  # no loop ever ran
                        pass
                sock.close()
        self._arp = self._icmp = None

    def ask(self, address: IPv4Address, is_local: bool, on_probed: OnProbed, within_s: float) -> bool:
        """Ask; `on_probed` is called from the event loop, later. False: too many are under way, or this one is.

        Of one that is under way already the time is cut to `within_s`; then its first `on_probed` is called.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + within_s
        known = self._probes.get(address)
        if known is not None:
            if ends_s < known.ends_s:
                known.end.cancel()
                known.end, known.ends_s = loop.call_at(ends_s, self._end, known, None), ends_s
            return False
        if len(self._probes) >= MOST_AT_ONCE:
            return False
        self._number = (self._number + 1) & 0xFFFF
        again = loop.call_later(within_s * AGAIN, self._send_again, address)
        probe = _Probe(address, is_local, on_probed, self._number, ends_s, again, again)
        probe.end = loop.call_at(ends_s, self._end, probe, None)
        self._probes[address] = probe
        self._send(probe)
        return True

    def _send(self, probe: _Probe) -> None:
        """What cannot be sent counts as asked: the interface is down, and then nobody gets an offer either."""
        assert self._arp is not None and self._icmp is not None
        try:
            if probe.is_local:
                self._arp.send(build_arp_probe(self._interface.mac, probe.address))
            else:
                self._icmp.sendto(build_echo_request(self._identifier, probe.number), (str(probe.address), 0))
        except OSError as error:
            _log.debug("probe not sent", address=str(probe.address), cause=error.strerror)

    def _send_again(self, address: IPv4Address) -> None:
        if (probe := self._probes.get(address)) is not None:
            self._send(probe)

    def _end(self, probe: _Probe, holder: str | None) -> None:
        del self._probes[probe.address]
        probe.again.cancel()
        probe.end.cancel()
        probe.on_probed(probe.address, holder)

    def _drain_arp(self, sock: socket.socket) -> None:
        for _ in range(_MAX_PER_WAKE):
            try:
                frame = sock.recv(_MAX_FRAME_BYTES)
            except OSError:  # nothing more, or the interface went down
                return
            if not self._probes:
                continue
            try:
                packet = parse_arp(frame)
            except WireError:
                continue
            # RFC 5227, section 2.1.1: any packet from the address, whatever it is for. Our own probes name no sender.
            probe = self._probes.get(packet.sender)
            if probe is not None and probe.is_local and packet.sender_mac != self._interface.mac:
                self._end(probe, packet.sender_mac.hex(":"))

    def _drain_icmp(self, sock: socket.socket) -> None:
        for _ in range(_MAX_PER_WAKE):
            try:
                data, source = sock.recvfrom(_MAX_FRAME_BYTES)
            except OSError:
                return
            probe = self._probes.get(IPv4Address(source[0]))
            if probe is None or probe.is_local:
                continue
            try:
                identifier, number = parse_echo_reply(data)
            except WireError:
                continue
            if (identifier, number) == (self._identifier, probe.number):
                self._end(probe, "")
