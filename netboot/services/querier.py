"""[S] The querier of one interface, by IGMP or MLD: switches that snoop forget who wants a cast when nobody asks.

Takes no protocol decision: netboot.querier has those.
"""

import asyncio
import contextlib
import socket
import time

import structlog

from imager.transport.group_socket import Membership, family_of
from netboot.errors import ServiceError
from netboot.querier import LeftTo, Querier
from netboot.services.capture import Capture
from netboot.services.group_queries import Address, QueryWay, query_way
from netboot.services.interface import Interface

_JOINED_S = 0.4
_MAX_PER_WAKE = 64

_log = structlog.get_logger(__name__)


async def serve_queries(interface: Interface, interval_s: int, unused: Address) -> None:
    """For ever; cancel to end. `unused`: a group without members, joined and left to see whether somebody asks then.

    It is of the IP version whose groups are asked for.

    Raises ServiceError when nothing can be heard.
    """
    way = await asyncio.to_thread(query_way, interface, unused)
    try:
        capture = Capture(interface.name, way.program, promiscuous=False, own=False)
    except PermissionError:
        raise ServiceError("no right to ask for members of groups: run as root or with CAP_NET_RAW") from None
    except OSError as error:
        raise ServiceError(f"{way.protocol} cannot be heard on {interface.name}: {error.strerror}") from None
    with capture:
        await _Asker(interface, way, interval_s, capture).run(unused)


class _Asker:
    def __init__(self, interface: Interface, way: QueryWay, interval_s: int, capture: Capture) -> None:
        self._interface = interface
        self._way = way
        self._interval_s = interval_s
        self._capture = capture
        self._querier = Querier(way.own, interval_s, time.monotonic())
        self._wake = asyncio.Event()

    async def run(self, unused: Address) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._capture.fileno(), self._read)
        try:
            await self._provoke(unused)
            while True:
                self._querier.handle_timeout(time.monotonic())
                if self._querier.take_query():
                    self._ask()
                self._tell()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._querier.next_timeout() - time.monotonic())):
                        await self._wake.wait()
        finally:
            loop.remove_reader(self._capture.fileno())

    async def _provoke(self, unused: Address) -> None:
        """A querier that hears somebody leave asks at once who is left (RFC 3376, section 6.4.2)."""
        with socket.socket(family_of(str(unused)), socket.SOCK_DGRAM) as sock:
            with contextlib.suppress(OSError):  # no cable yet: then nobody is heard either
                Membership(sock, str(unused), self._way.own_on(self._interface)).join()
            await asyncio.sleep(_JOINED_S)

    def _read(self) -> None:
        for _ in range(_MAX_PER_WAKE):
            try:
                got = self._capture.read_waiting()
            except OSError:  # the interface went down: the socket lives on
                break
            if got is None:
                break
            query = self._way.read(got[0])
            if query is not None:
                self._querier.hear(query.source, time.monotonic())
        self._wake.set()

    def _ask(self) -> None:
        frame = self._way.build(self._querier.response_s, self._interval_s)
        try:
            self._capture.send(frame)
        except OSError as error:  # the cable is out: the next question may leave
            _log.debug("query not sent", interface=self._interface.name, cause=error.strerror)

    def _tell(self) -> None:
        name, protocol = self._interface.name, self._way.protocol
        for event in self._querier.events():
            if isinstance(event, LeftTo):
                _log.info(f"another {protocol} querier asks", interface=name, querier=str(event.other))
            else:
                _log.info(f"asks as {protocol} querier", interface=name, interval_s=self._interval_s)
