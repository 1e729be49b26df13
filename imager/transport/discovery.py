"""How file casts find each other: announcements on a discovery group, heard or sent. No protocol beyond that.

Announcements come seldom, and are heard by asyncio-dgram; the data has sockets of its own (endpoint.py).
"""

import asyncio
import contextlib
import math
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv4Address

import asyncio_dgram

from imager.errors import CastError, PacketError
from imager.transport.catalogue import Catalogue, fetch_catalogue
from imager.transport.interfaces import interface_address
from imager.wire.announce import parse_announce

DISCOVERY_GROUP = "239.77.0.1"
DEFAULT_PORT = 7710
"""UDP port of the announcements, and TCP port of the catalogue; the data goes to the next UDP port."""
_FAILED_S = 2.0
"""A sender whose catalogue could not be had is left alone so long: others are heard meanwhile."""
_MOST_FAILED = 1024
_CATALOGUE_S = 60.0

Found = tuple[str, int, Catalogue, list[bytes]]
"""A sender's address, the TCP port of its catalogue, the catalogue and the chunks' hashes."""


def random_group() -> str:
    """A group of ours: its low 23 bits are never of 0.0.x, which switches flood, and it is not the discovery group."""
    return f"239.77.{1 + secrets.randbelow(255)}.{secrets.randbelow(256)}"


def checked_group(text: str) -> str:
    """A group that data can be sent to. Raises CastError for what is none."""
    try:
        group = IPv4Address(text)
    except AddressValueError:
        raise CastError(f"{text} is no IPv4 address: a multicast group is wanted, as 239.77.5.5 is") from None
    if not group.is_multicast:
        raise CastError(f"{group} is no multicast group: take one of 239.0.0.0/8, as 239.77.5.5 is")
    if not int(group) & 0x7FFF00:
        raise CastError(
            f"{group} has the hardware address of a group of 224.0.0.x, which every switch floods: take 239.77.5.5"
        )
    return str(group)


def local_address(interface: str | None, peer: str = DISCOVERY_GROUP) -> str:
    """The address of an interface; when none is named, of the one that the system would reach `peer` by."""
    if interface is not None:
        return interface_address(interface)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((peer, DEFAULT_PORT))
        except OSError as error:
            raise CastError(f"no route to {peer}; name an interface: --interface IF") from error
        address: str = sock.getsockname()[0]
        return address


class Finder:
    """Looks for a sender that can be used."""

    def __init__(self, key: bytes | None, max_wait_s: float, tell: Callable[[str], None]) -> None:
        """`max_wait_s`: 0, as long as it takes. `tell` gets why a sender could not be used, once a reason."""
        self._root = ""
        self._wanted: bytes | None = None
        self._key = key
        self._max_wait_s = max_wait_s
        self._end = time.monotonic() + max_wait_s if max_wait_s else math.inf
        self._tell = tell
        self._told: set[str] = set()
        self._failure: CastError | None = None

    def go_on_with(self, root: str, wanted: bytes | None) -> None:
        """Only the file with this root will do, of which these chunks are wanted, None: all."""
        self._root, self._wanted = root, wanted

    def listen(self, address: str, port: int) -> Found:
        """The first sender that announces itself and gives its catalogue.

        Anyone can announce anything: one whose catalogue cannot be had is passed over, and may try again later.
        """
        again_s: dict[tuple[str, int], float] = {}
        with _announcements(address, port) as sock:
            while True:
                # each time anew: while a catalogue is fetched, announcements wait in the kernel, which bounds them
                source = asyncio.run(self._hear(sock, again_s))
                if (found := self._fetch(*source)) is not None:
                    return found
                if len(again_s) >= _MOST_FAILED:
                    again_s.clear()
                again_s[source] = time.monotonic() + _FAILED_S

    async def _hear(self, sock: socket.socket, again_s: Mapping[tuple[str, int], float]) -> tuple[str, int]:
        """The address and TCP port of the next sender that may be asked now."""
        stream = await asyncio_dgram.from_socket(sock.dup())
        try:
            while True:
                left = self._left("announced a file")
                with contextlib.suppress(TimeoutError, PacketError):  # foreign datagrams are not for us
                    async with asyncio.timeout(None if left == math.inf else left):
                        data, sender = await stream.recv()
                    assert isinstance(sender, tuple)  # of an IPv4 socket
                    source = str(sender[0]), parse_announce(data).catalogue_port
                    if time.monotonic() >= again_s.get(source, 0.0):
                        return source
        finally:
            stream.close()

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
            return sender, port, *fetch_catalogue(sender, port, within_s, self._key, self._root, self._wanted)
        except CastError as error:
            self._failure = error
            if len(self._told) < _MOST_FAILED and str(error) not in self._told:
                self._told.add(str(error))
                self._tell(str(error))
            return None


def _announcements(address: str, port: int) -> socket.socket:
    """A socket that hears what senders announce."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((DISCOVERY_GROUP, port))
        membership = socket.inet_aton(DISCOVERY_GROUP) + socket.inet_aton(address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        sock.close()
        raise CastError(f"cannot listen on {DISCOVERY_GROUP} port {port}: {error.strerror}") from error
    return sock


class Announcer:
    """Sends the announcement, also out of the machine's own loopback for receivers on it."""

    def __init__(self, address: str, port: int, ttl: int, datagram: bytes) -> None:
        self._datagram = datagram
        self._target = (DISCOVERY_GROUP, port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)

    def __enter__(self) -> "Announcer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def announce(self) -> None:
        with contextlib.suppress(OSError):  # no cable: the next one may get out
            self._socket.sendto(self._datagram, self._target)
