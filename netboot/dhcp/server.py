"""The DHCP server: one request in, an answer or the reason for none out (RFC 2131, section 4.3). Pure.

`DhcpServer` keeps open offers in memory and bound leases in a `LeaseRepository`; it reads no clock. A machine is known
by its hardware address alone, so firmware, GRUB, the agent and the installed system hold one address together though
each of them sends a client identifier of its own.
"""

from collections import deque
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import chain, islice

from netboot.dhcp.boot_options import boot_options
from netboot.dhcp.classify import classify
from netboot.dhcp.leases import Lease, LeaseRepository, LeaseState
from netboot.dhcp.offers import OpenOffers
from netboot.dhcp.reply import (
    BROADCAST,
    CLIENT_PORT,
    SERVER_PORT,
    Arrival,
    BootChooser,
    Delivery,
    Destination,
    ProbeFirst,
    Reply,
)
from netboot.dhcp.subnets import ServerConfig
from netboot.model import BootFile, Ignored
from netboot.wire.dhcp import (
    BOOTREPLY,
    BOOTREQUEST,
    ETHERNET,
    ETHERNET_ADDRESS_BYTES,
    NO_ADDRESS,
    DhcpPacket,
    Options,
)
from netboot.wire.dhcp_options import (
    BROADCAST_ADDRESS,
    CLIENT_IDENTIFIER,
    DNS_SERVERS,
    DOMAIN_NAME,
    HOST_NAME,
    LEASE_TIME,
    MESSAGE,
    MESSAGE_TYPE,
    REBINDING_TIME,
    RELAY_AGENT,
    RENEWAL_TIME,
    REQUESTED_ADDRESS,
    ROUTERS,
    SERVER_IDENTIFIER,
    SUBNET_MASK,
    MessageType,
)

OFFER_S = 30.0
"""How long an offered address is held for its client."""
DECLINED_S = 600.0
"""How long an address that was found in use is left alone."""
PROBES = 16
"""Addresses tried one by one for a new machine: enough while a good part of the pool is free."""
WALK_S = 1.0
"""The whole pool, which may have 65,000 addresses, is looked through at most so often."""
_MAX_HOSTNAME = 63


class DhcpServer:
    """Answers for one pool. Not safe to call from two threads at once."""

    def __init__(
        self,
        config: ServerConfig,
        leases: LeaseRepository,
        choose_boot: BootChooser,
        offers: OpenOffers | None = None,
    ) -> None:
        self._config = config
        self._leases = leases
        self._choose_boot = choose_boot
        self._offers = OpenOffers() if offers is None else offers
        self._spare: deque[IPv4Address] = deque()
        """Were without a lease when the pool was looked through last; to be looked at again when given."""
        self._next_walk_s = 0.0

    def note_probe(self, address: IPv4Address, holder_mac: str | None, now: float) -> None:
        """Somebody (`""`: of unknown MAC) or nobody (None) answered at this address."""
        if holder_mac is None:
            return
        lease = self._leases.get_by_address(address)
        if lease is None or not lease.is_active(now):
            self._leases.save(Lease(holder_mac, address, now + DECLINED_S, LeaseState.DECLINED))

    def addresses_to_probe(self, now: float, count: int) -> list[ProbeFirst]:
        """Free addresses to ask for ahead of need, at most `count`."""
        return []

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored | ProbeFirst:
        """The answer to one packet. What `LeaseRepository` raises passes through."""
        if request.op != BOOTREQUEST:
            return Ignored("not a request: op is BOOTREPLY")
        if request.htype != ETHERNET or len(request.chaddr) != ETHERNET_ADDRESS_BYTES:
            return Ignored(f"not Ethernet: hardware type {request.htype}, {len(request.chaddr)} address bytes")
        if not any(request.chaddr) or request.chaddr[0] & 1:
            return Ignored(f"no machine's hardware address: {request.mac}")
        if request.giaddr != NO_ADDRESS and request.giaddr not in self._config.local.network:
            return Ignored(f"relayed from a network without a pool: giaddr {request.giaddr}")
        match request.message_type:
            case MessageType.DISCOVER:
                return self._offer(request, arrival.now)
            case MessageType.REQUEST:
                return self._respond_to_request(request, arrival.now)
            case MessageType.DECLINE:
                return self._decline(request, arrival.now)
            case MessageType.RELEASE:
                return self._release(request)
            case MessageType.INFORM:
                return self._inform(request, arrival)
            case None:
                return Ignored("BOOTP: no message type (option 53)")
            case other:
                return Ignored(f"not a client's message: {other.name}")

    # DISCOVER

    def _offer(self, request: DhcpPacket, now: float) -> Reply | Ignored:
        address = self._address_to_offer(request, now)
        if isinstance(address, Ignored):
            return address
        self._offers.put(request.mac, address, now + OFFER_S)
        return self._grant(request, MessageType.OFFER, address)

    def _address_to_offer(self, request: DhcpPacket, now: float) -> IPv4Address | Ignored:
        """In the order of RFC 2131, section 4.3.1: the current one, the last one, the wished one, any free one."""
        self._offers.forget_until(now)
        mac = request.mac
        offered = self._offers.address_of(mac)
        if offered is not None:
            return offered  # a repeated DISCOVER gets the same offer
        lease = self._leases.get_by_mac(mac)
        if lease is not None and self._is_free_for(mac, lease.address, now):
            return lease.address
        wished = request.options.get(REQUESTED_ADDRESS)
        if wished is not None and self._is_free_for(mac, wished, now):
            return wished
        free = self._free_address(mac, now)
        if free is not None:
            return free
        # Offers cost their askers nothing: whoever makes up hardware addresses must not close the pool.
        while (address := self._offers.evict_oldest()) is not None:
            if self._is_free_for(mac, address, now):
                return address
        pools = self._config.local.pools
        names = ", ".join(map(str, pools))
        return Ignored(f"pool exhausted: all {sum(map(len, pools))} addresses of {names} are in use")

    def _free_address(self, mac: str, now: float) -> IPv4Address | None:
        """One that nobody has. A few are asked for one by one; the whole pool is looked through seldom."""
        for address in islice(self._walk(mac), PROBES):
            if self._is_free_for(mac, address, now):
                return address
        if not self._spare and now >= self._next_walk_s:
            active = {lease.address for lease in self._leases.all() if lease.is_active(now)}
            self._spare = deque(address for address in self._walk(mac) if address not in active)
            self._next_walk_s = now + WALK_S
        while self._spare:
            address = self._spare.popleft()
            if self._is_free_for(mac, address, now):
                return address
        return None

    def _walk(self, mac: str) -> Iterator[IPv4Address]:
        return chain.from_iterable(pool.walk(mac) for pool in self._config.local.pools)

    def _is_free_for(self, mac: str, address: IPv4Address, now: float) -> bool:
        """Whether this machine may have (or keep) this address."""
        return self._offers.holder_of(address, now) in (None, mac) and self._is_unbound_for(mac, address, now)

    def _is_unbound_for(self, mac: str, address: IPv4Address, now: float) -> bool:
        """The same, whomever it is offered to."""
        config = self._config
        if not config.local.in_pools(address) or address == config.server_address:
            return False
        if address in config.local.routers or address in config.local.dns_servers:
            return False
        lease = self._leases.get_by_address(address)
        if lease is None or not lease.is_active(now):
            return True
        return lease.mac == mac and lease.state is LeaseState.BOUND

    # REQUEST: its four states are told apart by table 4 of RFC 2131, section 4.3.6

    def _respond_to_request(self, request: DhcpPacket, now: float) -> Reply | Ignored:
        chosen = request.options.get(SERVER_IDENTIFIER)
        wished = request.options.get(REQUESTED_ADDRESS)
        if chosen is not None:
            return self._selecting(request, chosen, wished, now)
        if request.ciaddr != NO_ADDRESS:
            return self._keeping(request, request.ciaddr, now)  # RENEWING (unicast) or REBINDING (broadcast)
        if wished is not None:
            return self._keeping(request, wished, now)  # INIT-REBOOT
        return Ignored("REQUEST names no address: neither ciaddr nor option 50")

    def _selecting(
        self, request: DhcpPacket, chosen: IPv4Address, wished: IPv4Address | None, now: float
    ) -> Reply | Ignored:
        mac = request.mac
        if chosen != self._config.server_address:
            self._offers.drop(mac)
            return Ignored(f"took another server's offer: {chosen}")
        address = wished if wished is not None else request.ciaddr
        if address == NO_ADDRESS:
            return Ignored("REQUEST names no address: neither ciaddr nor option 50")
        lease = self._leases.get_by_mac(mac)
        was_offered = self._offers.address_of(mac) == address or self._offers.was_evicted(mac, address, now)
        is_held = lease is not None and lease.address == address  # a repeated REQUEST, its ACK was lost
        if not was_offered and not is_held:
            return self._refuse(request, f"{address} was not offered to you")
        # An offer that made room for another one is good still: who asks for the address goes before who does not.
        is_free = self._is_unbound_for if self._offers.was_evicted(mac, address, now) else self._is_free_for
        if not is_free(mac, address, now):
            return self._refuse(request, f"{address} is in use by another machine")
        return self._bind(request, address, now)

    def _keeping(self, request: DhcpPacket, address: IPv4Address, now: float) -> Reply | Ignored:
        """A client that believes to hold an address. We are the authority for the network, so doubt gets a NAK."""
        mac = request.mac
        if address not in self._config.local.network:
            return self._refuse(request, f"{address} is not of this network")
        lease = self._leases.get_by_mac(mac)
        if lease is None:
            return self._refuse(request, f"no lease of {address} is known for you")
        if lease.address != address:
            return self._refuse(request, f"your address is {lease.address}")
        if not self._is_free_for(mac, address, now):
            return self._refuse(request, f"{address} is in use by another machine")
        return self._bind(request, address, now)

    def _bind(self, request: DhcpPacket, address: IPv4Address, now: float) -> Reply:
        hostname = (request.options.get(HOST_NAME) or "")[:_MAX_HOSTNAME]
        self._leases.save(Lease(request.mac, address, now + self._config.local.lease_s, LeaseState.BOUND, hostname))
        self._offers.drop(request.mac)
        self._offers.withdraw(address)
        return self._grant(request, MessageType.ACK, address)

    # DECLINE, RELEASE, INFORM

    def _decline(self, request: DhcpPacket, now: float) -> Ignored:
        address = request.options.get(REQUESTED_ADDRESS)
        if request.options.get(SERVER_IDENTIFIER) != self._config.server_address or address is None:
            return Ignored("DECLINE is not for this server")
        if not self._holds(request.mac, address):
            return Ignored(f"DECLINE of an address that the machine does not hold: {address}")
        self._offers.drop(request.mac)
        self._leases.save(Lease(request.mac, address, now + DECLINED_S, LeaseState.DECLINED))
        return Ignored(
            f"DECLINE, no answer is due: {address} is in use by a stranger, left alone for {DECLINED_S:.0f} s"
        )

    def _release(self, request: DhcpPacket) -> Ignored:
        address = request.ciaddr
        if request.options.get(SERVER_IDENTIFIER) != self._config.server_address:
            return Ignored("RELEASE is not for this server")
        if not self._holds(request.mac, address):
            return Ignored(f"RELEASE of an address that the machine does not hold: {address}")
        self._offers.drop(request.mac)
        self._leases.release(address)
        self._next_walk_s = 0.0
        return Ignored(f"RELEASE, no answer is due: {address} is free")

    def _holds(self, mac: str, address: IPv4Address) -> bool:
        if self._offers.address_of(mac) == address:
            return True
        lease = self._leases.get_by_mac(mac)
        return lease is not None and lease.address == address

    def _inform(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored:
        address = request.ciaddr if request.ciaddr != NO_ADDRESS else arrival.source
        if address not in self._config.local.network:
            return Ignored(f"INFORM from an address that is not of this network: {address}")
        return self._grant(request, MessageType.ACK, None, inform_address=address)

    # Answers

    def _grant(
        self,
        request: DhcpPacket,
        kind: MessageType,
        address: IPv4Address | None,
        inform_address: IPv4Address = NO_ADDRESS,
    ) -> Reply:
        """OFFER or ACK of an address; ACK of an INFORM (address None) has neither yiaddr nor lease time."""
        config = self._config
        options = Options().with_option(MESSAGE_TYPE, kind).with_option(SERVER_IDENTIFIER, config.server_address)
        if address is not None:
            options = options.with_option(LEASE_TIME, config.local.lease_s)
            options = options.with_option(RENEWAL_TIME, config.local.lease_s // 2)
            options = options.with_option(REBINDING_TIME, config.local.lease_s * 7 // 8)
        options = options.with_option(SUBNET_MASK, config.local.network.netmask)
        options = options.with_option(BROADCAST_ADDRESS, config.local.network.broadcast_address)
        if config.local.routers:
            options = options.with_option(ROUTERS, config.local.routers)
        if config.local.dns_servers:
            options = options.with_option(DNS_SERVERS, config.local.dns_servers)
        if config.local.domain:
            options = options.with_option(DOMAIN_NAME, config.local.domain)
        client = classify(request)
        boot: BootFile | Ignored = client if isinstance(client, Ignored) else self._choose_boot(client)
        siaddr, file = NO_ADDRESS, b""
        if not isinstance(client, Ignored) and not isinstance(boot, Ignored):
            siaddr, file, more = boot_options(request, client, boot, as_proxy=False)
            options = Options({**options.raw, **more.raw})
        packet = self._answer(request, options, yiaddr=address or NO_ADDRESS, siaddr=siaddr, file=file)
        return Reply(packet, self._destination(request, address or inform_address), boot)

    def _refuse(self, request: DhcpPacket, message: str) -> Reply:
        options = Options().with_option(MESSAGE_TYPE, MessageType.NAK)
        options = options.with_option(SERVER_IDENTIFIER, self._config.server_address).with_option(MESSAGE, message)
        packet = self._answer(request, options)
        if request.giaddr != NO_ADDRESS:
            destination = Destination(Delivery.UNICAST, request.giaddr, SERVER_PORT)
        else:  # the client may hold an address of another network: only a broadcast is sure to arrive (section 4.1)
            destination = Destination(Delivery.BROADCAST, BROADCAST, CLIENT_PORT)
        return Reply(packet, destination, Ignored(f"NAK: {message}"))

    def _answer(
        self,
        request: DhcpPacket,
        options: Options,
        yiaddr: IPv4Address = NO_ADDRESS,
        siaddr: IPv4Address = NO_ADDRESS,
        file: bytes = b"",
    ) -> DhcpPacket:
        identifier = request.options.get(CLIENT_IDENTIFIER)
        if identifier is not None:
            options = options.with_option(CLIENT_IDENTIFIER, identifier)  # RFC 6842: echoed
        relay = request.options.get(RELAY_AGENT)
        if relay is not None:
            options = options.with_option(RELAY_AGENT, relay)  # RFC 3046, section 2.2: echoed, and last
        is_nak = options.get(MESSAGE_TYPE) is MessageType.NAK
        return DhcpPacket(
            op=BOOTREPLY,
            xid=request.xid,
            chaddr=request.chaddr,
            flags=request.flags,
            ciaddr=NO_ADDRESS if is_nak or options.get(MESSAGE_TYPE) is MessageType.OFFER else request.ciaddr,
            yiaddr=yiaddr,
            siaddr=siaddr,
            giaddr=request.giaddr,
            file=file,
            options=options,
        )

    def _destination(self, request: DhcpPacket, address: IPv4Address) -> Destination:
        """RFC 2131, section 4.1: relay, known address, broadcast if asked for, else the new address's hardware."""
        if request.giaddr != NO_ADDRESS:
            return Destination(Delivery.UNICAST, request.giaddr, SERVER_PORT)
        if request.ciaddr != NO_ADDRESS:
            return Destination(Delivery.UNICAST, request.ciaddr, CLIENT_PORT)
        if request.wants_broadcast:
            return Destination(Delivery.BROADCAST, BROADCAST, CLIENT_PORT)
        if request.message_type is MessageType.INFORM:
            return Destination(Delivery.UNICAST, address, CLIENT_PORT)
        return Destination(Delivery.RAW, address, CLIENT_PORT, request.chaddr)
