"""How file casts find each other: announcements on a discovery group, heard or sent. No protocol beyond that.

Announcements come seldom, and are heard by asyncio-dgram; the data has sockets of its own (endpoint.py).
"""

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence

import asyncio_dgram

from imager.errors import CastError, PacketError
from imager.transport.catalogue import Catalogue, Choose, choose_all, fetch_catalogue
from imager.transport.group_socket import address_of, aim, family_of, hear, socket_address
from imager.transport.own_end import OwnEnd
from imager.wire.announce import parse_announce
from imager.wire.groups import DISCOVERY_GROUP, discovery_groups6

DEFAULT_PORT = 7710
"""UDP port of the announcements, and TCP port of the catalogue; the data goes to the next UDP port."""
_FAILED_S = 2.0
"""A sender whose catalogue could not be had is left alone so long: others are heard meanwhile."""
_MOST_FAILED = 1024
_CATALOGUE_S = 60.0

Found = tuple[str, int, Catalogue, list[bytes]]
"""A sender's address, the TCP port of its catalogue, the catalogue and the chunks' hashes."""


class Finder:
    """Looks for a sender that can be used."""

    def __init__(self, key: bytes | None, max_wait_s: float, tell: Callable[[str], None]) -> None:
        """`max_wait_s`: 0, as long as it takes. `tell` gets why a sender could not be used, once a reason."""
        self._root = ""
        self._choose: Choose = choose_all
        self._key = key
        self._max_wait_s = max_wait_s
        self._end = time.monotonic() + max_wait_s if max_wait_s else math.inf
        self._tell = tell
        self._told: set[str] = set()
        self._failure: CastError | None = None

    def look_for(self, root: str, choose: Choose) -> None:
        """The file with this root, empty: any, of which those chunks are wanted that `choose` says."""
        self._root, self._choose = root, choose

    def listen(self, own: OwnEnd, port: int) -> Found:
        """The first sender that announces itself and gives its catalogue.

        Anyone can announce anything: one whose catalogue cannot be had is passed over, and may try again later.
        """
        again_s: dict[tuple[str, int], float] = {}
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(sock) for sock in _announcements(own, port)]
            while True:
                # each time anew: while a catalogue is fetched, announcements wait in the kernel, which bounds them
                source = asyncio.run(self._hear(sockets, again_s))
                if (found := self._fetch(*source)) is not None:
                    return found
                if len(again_s) >= _MOST_FAILED:
                    again_s.clear()
                again_s[source] = time.monotonic() + _FAILED_S

    async def _hear(
        self, sockets: Sequence[socket.socket], again_s: Mapping[tuple[str, int], float]
    ) -> tuple[str, int]:
        """The address and TCP port of the next sender that may be asked now."""
        found: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        left = self._left("announced a file")
        try:
            async with asyncio.timeout(None if left == math.inf else left), asyncio.TaskGroup() as group:
                tasks = [group.create_task(_hear_one(sock, again_s, found)) for sock in sockets]
                await found
                for task in tasks:
                    task.cancel()
        except TimeoutError:
            self._left("announced a file")
        return await found

    def ask(self, sender: str, port: int) -> Found:
        """The catalogue of a sender whose address is known; waits until it is there."""
        while True:
            self._left(f"offers a file at {sender}, TCP port {port},")
            if (found := self._fetch(sender, port)) is not None:
                return found
            time.sleep(min(_FAILED_S / 4, max(0.0, self._end - time.monotonic())))

    def _left(self, what: str) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            why = "; is it on the same network?"
            if self._failure is not None:
                why = f" that could be used; the last: {self._failure}"
            raise CastError(f"no sender {what} within {self._max_wait_s:g} s{why}")
        return left

    def _fetch(self, sender: str, port: int) -> Found | None:
        try:
            within_s = min(_CATALOGUE_S, max(0.01, self._end - time.monotonic()))
            return sender, port, *fetch_catalogue(sender, port, within_s, self._key, self._root, self._choose)
        except CastError as error:
            self._failure = error
            if len(self._told) < _MOST_FAILED and str(error) not in self._told:
                self._told.add(str(error))
                self._tell(str(error))
            return None


async def _hear_one(
    sock: socket.socket, again_s: Mapping[tuple[str, int], float], found: "asyncio.Future[tuple[str, int]]"
) -> None:
    """Find the next sender that may be asked now, unless another socket has."""
    stream = await asyncio_dgram.from_socket(sock.dup())
    try:
        while not found.done():
            with contextlib.suppress(PacketError):  # foreign datagrams are not for us
                data, sender = await stream.recv()
                assert isinstance(sender, tuple)  # of an IP socket
                source = address_of(sender), parse_announce(data).catalogue_port
                if time.monotonic() >= again_s.get(source, 0.0) and not found.done():
                    found.set_result(source)
    finally:
        stream.close()


def _announcements(own: OwnEnd, port: int) -> list[socket.socket]:
    """Sockets that hear what senders announce: by IPv4, by IPv6, or both, as this machine has them."""
    ends = [(DISCOVERY_GROUP, own.ipv4)] if own.ipv4 else []
    if own.interface:
        ends += [(group, f"::%{own.interface}") for group in discovery_groups6()]
    sockets = []
    failure: CastError | None = None
    for group, address in ends:
        sock = None
        try:
            sock = socket.socket(family_of(group), socket.SOCK_DGRAM)
            hear(sock, group, port, address)
        except OSError as error:
            if sock is not None:
                sock.close()
            failure = failure or CastError(f"cannot listen on {group} port {port}: {error.strerror}")
        else:
            sockets.append(sock)
    if not sockets:  # IPv6 may be off
        raise failure or CastError("this machine has no address to listen at; name an interface: --interface IF")
    return sockets


class Announcer:
    """Sends announcements, also out of the machine's own loopback for receivers on it."""

    def __init__(self, own: str, group: str, port: int, ttl: int) -> None:
        """`own`: an address of ours, of the group's IP version. Raises OSError when it is ours no longer."""
        self._target = socket_address(group, port, own.partition("%")[2])
        self._socket = socket.socket(family_of(group), socket.SOCK_DGRAM)
        try:
            aim(self._socket, own, ttl)
            self._socket.bind(socket_address(own, 0))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Announcer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def announce(self, datagram: bytes) -> None:
        with contextlib.suppress(OSError):  # no cable: the next one may get out
            self._socket.sendto(datagram, self._target)
