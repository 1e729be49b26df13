"""The sockets of the watch for other DHCP servers: asks by frames of its own, hears what passes the interface.

A frame that is sent from a packet socket does not come in at this machine's own port 67: our own server is not asked.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from ipaddress import IPv4Address

import structlog

from netboot.dhcp.reply import BROADCAST, CLIENT_PORT, SERVER_PORT
from netboot.dhcp.watch import OtherServer, ServerWatch, WatchEvent
from netboot.errors import ServiceError, WireError
from netboot.services.capture import DHCP_ANSWERS, Capture
from netboot.services.interface import Interface
from netboot.wire.dhcp import NO_ADDRESS, DhcpPacket, build_dhcp, parse_dhcp
from netboot.wire.frame import build_udp_frame, parse_udp_frame

_MAX_PER_WAKE = 64
_BROADCAST_MAC = b"\xff" * 6

_log = structlog.get_logger(__name__)

OnEvent = Callable[[WatchEvent], None]


class ServerWatching:
    """The watch of one interface, while `run` runs. Belongs to one event loop."""

    def __init__(
        self,
        interface: Interface,
        own_addresses: frozenset[IPv4Address],
        on_event: OnEvent,
        may_ask: Callable[[], bool],
    ) -> None:
        """While `may_ask` says no, it only listens."""
        self._interface = interface
        self._own_addresses = own_addresses
        self._on_event = on_event
        self._may_ask = may_ask
        self._wake = asyncio.Event()
        self.looked = asyncio.Event()
        """Set when it is known whether somebody else is there."""
        self.look_anew()

    @property
    def other(self) -> OtherServer | None:
        return self._watch.other

    def look_anew(self) -> None:
        """As at the start: forget who was heard, and ask."""
        now = time.monotonic()
        self._watch = ServerWatch(self._interface.mac, self._own_addresses, random.Random(), now)
        self.looked.clear()
        self._wake.set()

    def overhear(self, request: DhcpPacket) -> None:
        """A packet of a client, which came to our own port."""
        if self._watch.overhear(request, time.monotonic()):
            self._wake.set()

    async def run(self) -> None:
        """For ever; cancel to end. ServiceError when nothing can be heard."""
        loop = asyncio.get_running_loop()
        try:
            capture = Capture(self._interface.name, DHCP_ANSWERS, promiscuous=False, own=False)
        except PermissionError:
            raise ServiceError("no right to hear other DHCP servers: run as root or with CAP_NET_RAW") from None
        except OSError as error:
            raise ServiceError(f"other DHCP servers cannot be heard on {self._interface.name}: {error}") from None
        with capture:
            loop.add_reader(capture.fileno(), self._read, capture)
            try:
                while True:
                    self._watch.handle_timeout(time.monotonic())
                    packets = self._watch.packets_to_send()
                    if self._may_ask():
                        for packet in packets:
                            self._send(capture, packet)
                    self._tell()
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, self._watch.next_timeout() - time.monotonic())):
                            await self._wake.wait()
            finally:
                loop.remove_reader(capture.fileno())

    def _read(self, capture: Capture) -> None:
        for _ in range(_MAX_PER_WAKE):
            try:
                got = capture.read_waiting()
            except OSError:  # the interface went down: the socket lives on
                break
            if got is None:
                break
            try:
                heard = parse_udp_frame(got[0])
                packet = parse_dhcp(heard.payload)
            except WireError:
                continue
            self._watch.receive(packet, heard.source, heard.source_mac, time.monotonic())
        self._tell()
        self._wake.set()

    def _tell(self) -> None:
        if self._watch.has_looked:
            self.looked.set()
        for event in self._watch.events():
            self._on_event(event)

    def _send(self, capture: Capture, packet: DhcpPacket) -> None:
        frame = build_udp_frame(
            build_dhcp(packet),
            source_mac=self._interface.mac,
            destination_mac=_BROADCAST_MAC,
            source=NO_ADDRESS,
            source_port=CLIENT_PORT,
            destination=BROADCAST,
            destination_port=SERVER_PORT,
        )
        try:
            capture.send(frame)
        except OSError as error:  # the cable is out: the next question may leave
            _log.debug("dhcp question not sent", interface=self._interface.name, cause=error.strerror)
