"""Whether another DHCP server gives out addresses on one network: asks, listens, and says when that changes. Pure.

`ServerWatch` is a conversation without sockets: it plays a client that takes no offer (DISCOVER, RFC 2131, section
3.1), plain and PXE, and hears what others are answered too. A proxy, which gives no address, is no server to it.
"""

import random
from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.wire.dhcp import BOOTREPLY, BOOTREQUEST, BROADCAST_FLAG, NO_ADDRESS, DhcpPacket, Options
from netboot.wire.dhcp_options import (
    CLIENT_ARCH,
    HOST_NAME,
    MESSAGE_TYPE,
    PARAMETER_LIST,
    SERVER_IDENTIFIER,
    VENDOR_CLASS,
    MessageType,
)

LOOK_AT_S = (0.0, 1.0, 3.0)
"""A look asks so often: a packet may be lost."""
LOOK_S = 5.0
"""And waits so long from its beginning: dnsmasq pings an address for 3 s before it offers it."""
ASK_EVERY_S = 60.0
SUSPECT_EVERY_S = 10.0
"""Whoever sends much in the name of a server that is none makes us ask no more often."""
QUIET_S = 300.0
"""A server that was not heard for so long, and not in a last look, is gone."""
LONGEST_QUIET_S = 3600.0
"""Each time that it comes back we wait twice as long the next time, and no longer than this."""
_SPREAD = 0.5
"""Waiting times grow by up to this share: two appliances that met each other must not both come back at once."""
_MOST_SERVERS = 16
_ASKED_FOR = (1, 3, 6, 15, 43, 51, 54, 60, 66, 67)
_HOST_NAME = "roomcast-watch"
"""So that the other server's log tells who asked."""
_PXE_CLASS, _PXE_ARCH = "PXEClient:Arch:00007:UNDI:003016", 7
_PRESENT = (MessageType.OFFER, MessageType.ACK, MessageType.NAK)


@dataclass(frozen=True, slots=True)
class OtherServer:
    """A DHCP server that is not this appliance."""

    server: IPv4Address
    """As it names itself (option 54)."""
    mac: str
    """Of the machine that the packet came from: the server, or a relay agent."""

    def __str__(self) -> str:
        return f"{self.server} ({self.mac})"


@dataclass(frozen=True, slots=True)
class ServerAppeared:
    """It gives out addresses, and was not known before."""

    other: OtherServer


@dataclass(frozen=True, slots=True)
class ServersVanished:
    """Nobody else gives out addresses any more."""

    last: OtherServer


WatchEvent = ServerAppeared | ServersVanished


class ServerWatch:
    """The watch of one interface, from its first look on. Times are seconds of any clock that never jumps."""

    def __init__(
        self, own_mac: bytes, own_addresses: frozenset[IPv4Address], rng: random.Random, now: float = 0.0
    ) -> None:
        """`own_addresses`: of all interfaces that this appliance serves: their answers may come back by a relay."""
        self._own_addresses = own_addresses
        self._rng = rng
        # Locally administered, and always the same: a server keeps one address for it, however often it asks.
        self._mac = bytes([0x06 if own_mac[0] == 0x02 else 0x02]) + own_mac[1:]
        self._heard: dict[OtherServer, float] = {}
        """When each was heard last, the latest at the end."""
        self._is_alone = True
        self._alone_since_s = now
        self._quiet_s = QUIET_S
        """Of silence that are needed, the next time that there is one to be silent."""
        self._gone_after_s = self._waiting(QUIET_S)
        self._look_ends_s: float | None = now + LOOK_S
        self._asks_s = [now + after for after in LOOK_AT_S]
        self._suspected_s = now - SUSPECT_EVERY_S
        self._outgoing: list[DhcpPacket] = []
        self._events: list[WatchEvent] = []

    @property
    def has_looked(self) -> bool:
        """Whether `other` can be trusted: the first look is over, or somebody was heard."""
        return not self._is_alone or self._look_ends_s is None

    @property
    def other(self) -> OtherServer | None:
        """The one that was heard last, while there is one."""
        return None if self._is_alone or not self._heard else next(reversed(self._heard))

    def receive(self, packet: DhcpPacket, source: IPv4Address, source_mac: bytes, now: float) -> None:
        """A packet that this machine did not send."""
        kind = packet.message_type
        if packet.op != BOOTREPLY or kind not in _PRESENT:
            return
        if packet.yiaddr == NO_ADDRESS and kind is not MessageType.NAK:
            return  # a proxy, or the answer to an INFORM
        server = packet.options.get(SERVER_IDENTIFIER) or source
        if server in self._own_addresses:
            return
        other = OtherServer(server, source_mac.hex(":"))
        is_new = other not in self._heard
        self._heard.pop(other, None)
        if len(self._heard) >= _MOST_SERVERS:
            del self._heard[next(iter(self._heard))]
        self._heard[other] = now
        if self._is_alone:
            self._step_back(now)
        if is_new:
            self._events.append(ServerAppeared(other))

    def overhear(self, request: DhcpPacket, now: float) -> bool:
        """A client's packet. True: a question is due now, because it takes the offer of a stranger.

        Kea's answers go to the client's hardware address, whatever its broadcast flag says: others do not hear them.
        """
        chosen = request.options.get(SERVER_IDENTIFIER)
        if request.message_type is not MessageType.REQUEST or chosen is None or chosen in self._own_addresses:
            return False
        is_due = now - self._suspected_s >= SUSPECT_EVERY_S
        if not is_due or not self._is_alone or self._look_ends_s is not None:
            return False
        self._suspected_s = now
        self._asks_s = [now]
        return True

    def _step_back(self, now: float) -> None:
        if now - self._alone_since_s > LONGEST_QUIET_S:  # a long calm is forgiven
            self._quiet_s = QUIET_S
        self._gone_after_s = self._waiting(self._quiet_s)
        self._quiet_s = min(2 * self._quiet_s, LONGEST_QUIET_S)
        self._is_alone = False
        self._look_ends_s = None
        self._asks_s = [now + self._waiting(ASK_EVERY_S)]

    def packets_to_send(self) -> list[DhcpPacket]:
        """To be broadcast to port 67, from no address and with `chaddr` as it stands."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def events(self) -> list[WatchEvent]:
        """What changed since the last call."""
        events, self._events = self._events, []
        return events

    def next_timeout(self) -> float:
        """When `handle_timeout` is due."""
        ends = [] if self._look_ends_s is None else [self._look_ends_s]
        return min(self._asks_s + ends)

    def handle_timeout(self, now: float) -> None:
        """To be called at `next_timeout`; too early does nothing."""
        if self._look_ends_s is not None and now >= self._look_ends_s:
            self._end_look(now)
        if not self._asks_s or now < self._asks_s[0]:
            return
        self._asks_s.pop(0)
        self._outgoing += [self._question(is_pxe=False), self._question(is_pxe=True)]
        if self._look_ends_s is None:
            if not self._is_alone and self._is_quiet(now):
                self._look_ends_s = now + LOOK_S
                self._asks_s = [now + after for after in LOOK_AT_S[1:]]
            else:
                self._asks_s = [now + self._waiting(ASK_EVERY_S)]

    def _end_look(self, now: float) -> None:
        self._look_ends_s = None
        self._asks_s = [now + self._waiting(ASK_EVERY_S)]
        if not self._is_alone and self._is_quiet(now):
            self._events.append(ServersVanished(next(reversed(self._heard))))
            self._heard.clear()
            self._is_alone = True
            self._alone_since_s = now

    def _is_quiet(self, now: float) -> bool:
        return now - max(self._heard.values()) >= self._gone_after_s

    def _waiting(self, seconds: float) -> float:
        return seconds * (1 + self._rng.random() * _SPREAD)

    def _question(self, *, is_pxe: bool) -> DhcpPacket:
        options = Options().with_option(MESSAGE_TYPE, MessageType.DISCOVER).with_option(HOST_NAME, _HOST_NAME)
        options = options.with_option(PARAMETER_LIST, _ASKED_FOR)
        if is_pxe:
            options = options.with_option(VENDOR_CLASS, _PXE_CLASS).with_option(CLIENT_ARCH, (_PXE_ARCH,))
        xid = self._rng.getrandbits(32)
        return DhcpPacket(op=BOOTREQUEST, xid=xid, chaddr=self._mac, flags=BROADCAST_FLAG, options=options)
