"""The DHCP server: one request in, an answer or the reason for none out (RFC 2131, section 4.3). Pure.

`DhcpServer` keeps open offers in memory and bound leases in a lease table; it reads no clock. A machine is known by its
hardware address alone, so firmware, GRUB, the agent and the installed system hold one address together though each of
them sends a client identifier of its own.
"""

from dataclasses import replace
from ipaddress import IPv4Address

from netboot.dhcp.answers import answer_packet, grant_destination, order_options, refusal_destination
from netboot.dhcp.boot_options import boot_options
from netboot.dhcp.classify import classify
from netboot.dhcp.free import AHEAD_LOCAL, AHEAD_RELAYED
from netboot.dhcp.intake import Allowances, Intake
from netboot.dhcp.leases import Lease, LeaseRepository, LeaseState
from netboot.dhcp.offers import OpenOffers
from netboot.dhcp.places import DECLINED_S, Place, find_place, place_of
from netboot.dhcp.probed import ProbedAddresses
from netboot.dhcp.reply import Arrival, BootChooser, ProbeFirst, Reply
from netboot.dhcp.subnets import Reservation, ServerConfig
from netboot.model import BootFile, Ignored
from netboot.wire.dhcp import (
    BOOTREQUEST,
    ETHERNET,
    ETHERNET_ADDRESS_BYTES,
    NO_ADDRESS,
    DhcpPacket,
    message_limit,
)
from netboot.wire.dhcp_options import (
    CLIENT_IDENTIFIER,
    HOST_NAME,
    LEASE_TIME,
    MESSAGE,
    MESSAGE_TYPE,
    REBINDING_TIME,
    RELAY_AGENT,
    RENEWAL_TIME,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    MessageType,
    relay_sub_options,
)

OFFER_S = 30.0
"""How long an offered address is held for its client."""
TRIAL_S = 600
"""A stranger's first lease while addresses are scarce: who is real renews it, what was made up frees it."""
DECLINES_OF_ONE = 3
"""Addresses that one machine can put away in DECLINED_S."""
_MAX_HOSTNAME = 63
_AGAIN_BEFORE_S = 10.0
"""What is probed ahead is asked for again so long before it is stale."""
_CIRCUIT_ID, _REMOTE_ID = 1, 2
"""Sub-options of option 82 (RFC 3046, section 2.0)."""


class DhcpServer:
    """Answers on one interface, for its subnet and those behind relays. Not safe to call from two threads at once."""

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
        self._places = [Place(subnet, config, leases) for subnet in config.subnets]
        self._probed = ProbedAddresses()
        self._intake = Intake()
        self._declines = Allowances(DECLINES_OF_ONE / DECLINED_S, DECLINES_OF_ONE)
        self._identity = {SERVER_IDENTIFIER.code: config.server_address.packed}

    # Probes

    def note_probe(self, address: IPv4Address, holder_mac: str | None, now: float) -> None:
        """Somebody (`""`: of unknown MAC) or nobody (None) answered at this address."""
        if holder_mac is None:
            self._probed.note_nobody(address, now)
            return
        lease = self._leases.get_by_address(address)
        if lease is not None and lease.is_active(now):
            return  # its holder, who may answer
        self._probed.note_holder(address, holder_mac, now + DECLINED_S)
        if (place := place_of(address, self._places)) is not None:
            place.free.taken(address, now + DECLINED_S)
        if self._offers.holder_of(address, now) != holder_mac:
            self._offers.withdraw(address)

    def addresses_to_probe(self, now: float, count: int) -> list[ProbeFirst]:
        """Free addresses to ask for ahead of need, at most `count`. To be called every second or so."""
        wanted: list[ProbeFirst] = []
        if not self._config.probe:
            return wanted
        soon = now + _AGAIN_BEFORE_S
        for place in self._places:
            free = place.free.ahead(
                now,
                count - len(wanted),
                AHEAD_LOCAL if place.is_local else AHEAD_RELAYED,
                is_probed=lambda address: self._probed.is_fresh(address, "", soon),
                is_offered=lambda address: self._offers.holder_of(address, now) is not None,
            )
            wanted += [ProbeFirst(address, place.is_local) for address in free]
        return wanted

    # Requests

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored | ProbeFirst:
        """The answer to one packet. What the leases raise passes through."""
        if request.op != BOOTREQUEST:
            return Ignored("not a request: op is BOOTREPLY")
        if request.htype != ETHERNET or len(request.chaddr) != ETHERNET_ADDRESS_BYTES:
            return Ignored(f"not Ethernet: hardware type {request.htype}, {len(request.chaddr)} address bytes")
        mac = request.mac
        if not any(request.chaddr) or request.chaddr[0] & 1:
            return Ignored(f"no machine's hardware address: {mac}")
        kind = request.message_type
        if kind is None:
            return Ignored("BOOTP: no message type (option 53)")
        refused = self._intake.refuse(mac, self._source_of(mac, arrival), request.giaddr, arrival.now)
        if refused is not None:
            return refused
        place = find_place(request, arrival, self._places, self._config.server_address)
        if isinstance(place, Ignored):
            return place
        match kind:
            case MessageType.DISCOVER:
                return self._offer(request, place, arrival.now)
            case MessageType.REQUEST:
                return self._respond_to_request(request, place, arrival.now)
            case MessageType.DECLINE:
                return self._decline(request, place, arrival.now)
            case MessageType.RELEASE:
                return self._release(request, place, arrival)
            case MessageType.INFORM:
                return self._inform(request, place, arrival)
            case other:
                return Ignored(f"not a client's message: {other.name}")

    def _source_of(self, mac: str, arrival: Arrival) -> IPv4Address:
        """Whose allowance a packet takes. Others may send in the name of a machine's address: not from its own."""
        lease = self._leases.get_by_mac(mac)
        return NO_ADDRESS if lease is not None and lease.address == arrival.source else arrival.source

    # DISCOVER

    def _offer(self, request: DhcpPacket, place: Place, now: float) -> Reply | Ignored | ProbeFirst:
        mac = request.mac
        reservation = place.reservation_of(request)
        self._offers.forget_until(now)
        address = self._address_to_offer(request, place, reservation, now)
        if isinstance(address, Ignored):
            return address
        self._offers.put(mac, address, now + OFFER_S)
        place.free.offered(address)
        if self._config.probe and not (self._has_lease(mac, address, now) or self._probed.is_fresh(address, mac, now)):
            return ProbeFirst(address, place.is_local)
        return self._grant(request, place, MessageType.OFFER, address, reservation, now)

    def _address_to_offer(
        self, request: DhcpPacket, place: Place, reservation: Reservation | None, now: float
    ) -> IPv4Address | Ignored:
        """In the order of RFC 2131, section 4.3.1: reserved, current, last, wished, any free one."""
        mac = request.mac
        if reservation is not None and self._is_free_for(mac, reservation.address, place, reservation, now):
            return reservation.address
        offered = self._offers.address_of(mac)
        if offered is not None and self._is_free_for(mac, offered, place, reservation, now):
            return offered  # a repeated DISCOVER gets the same offer
        lease = self._leases.get_by_mac(mac)
        if lease is not None and self._is_free_for(mac, lease.address, place, reservation, now):
            return lease.address
        is_stranger = lease is None and reservation is None
        if is_stranger:
            refused = self._intake.refuse_stranger(now) if offered is None else None
            if refused is not None:
                return refused
            if place.free.has_had_its_share(_circuit(request), now):
                return Ignored(
                    "pool nearly exhausted: the machines behind this relay port hold a quarter of it already"
                )
        wished = request.options.get(REQUESTED_ADDRESS)
        is_kept = wished is not None and is_stranger and place.free.is_kept(wished)
        if wished is not None and not is_kept and self._is_free_for(mac, wished, place, reservation, now):
            return wished
        return self._any_free(mac, place, is_stranger, now)

    def _any_free(self, mac: str, place: Place, is_stranger: bool, now: float) -> IPv4Address | Ignored:
        for address in place.free.choose(
            now,
            is_stranger=is_stranger,
            is_probed=lambda address: self._probed.is_fresh(address, "", now),
            is_offered=lambda address: self._offers.holder_of(address, now) is not None,
        ):
            if not self._is_unbound_for(mac, address, place, None, now):
                place.free.taken(address, now + OFFER_S)  # by a server of another interface: to be looked at again
                continue
            # Offers cost their askers nothing: whoever makes up hardware addresses must not close the pool.
            self._offers.evict(address)
            return address
        if is_stranger and (kept := place.free.count(now)):
            return Ignored(
                f"pool exhausted: {place.describe()} are in use but {kept}, which are kept for machines that had one"
            )
        return Ignored(f"pool exhausted: {place.describe()} are in use")

    def _is_free_for(
        self, mac: str, address: IPv4Address, place: Place, reservation: Reservation | None, now: float
    ) -> bool:
        """Whether this machine may have (or keep) this address."""
        if self._offers.holder_of(address, now) not in (None, mac):
            return False
        return self._is_unbound_for(mac, address, place, reservation, now)

    def _is_unbound_for(
        self, mac: str, address: IPv4Address, place: Place, reservation: Reservation | None, now: float
    ) -> bool:
        """The same, whomever it is offered to."""
        if not place.may_be_given(address, reservation):
            return False
        lease = self._leases.get_by_address(address)
        if lease is not None and lease.is_active(now):
            return lease.mac == mac and lease.state is LeaseState.BOUND
        return self._probed.holder(address, now) in (None, mac)

    def _has_lease(self, mac: str, address: IPv4Address, now: float) -> bool:
        lease = self._leases.get_by_mac(mac)
        return lease is not None and lease.address == address and lease.is_active(now)

    # REQUEST: its four states are told apart by table 4 of RFC 2131, section 4.3.6

    def _respond_to_request(self, request: DhcpPacket, place: Place, now: float) -> Reply | Ignored:
        chosen = request.options.get(SERVER_IDENTIFIER)
        wished = request.options.get(REQUESTED_ADDRESS)
        if chosen is not None:
            return self._selecting(request, place, chosen, wished, now)
        if request.ciaddr != NO_ADDRESS:
            return self._keeping(request, place, request.ciaddr, now)  # RENEWING (unicast) or REBINDING (broadcast)
        if wished is not None:
            return self._keeping(request, place, wished, now)  # INIT-REBOOT
        return Ignored("REQUEST names no address: neither ciaddr nor option 50")

    def _selecting(
        self, request: DhcpPacket, place: Place, chosen: IPv4Address, wished: IPv4Address | None, now: float
    ) -> Reply | Ignored:
        mac = request.mac
        if chosen in self._config.other_addresses:
            return Ignored(f"takes the offer of our server on another interface: {chosen}")
        if chosen != self._config.server_address:
            self._offers.drop(mac)
            return Ignored(f"took another server's offer: {chosen}")
        address = wished if wished is not None else request.ciaddr
        if address == NO_ADDRESS:
            return Ignored("REQUEST names no address: neither ciaddr nor option 50")
        lease = self._leases.get_by_mac(mac)
        was_evicted = self._offers.was_evicted(mac, address, now)
        was_offered = was_evicted or self._offers.address_of(mac) == address
        is_held = lease is not None and lease.address == address  # a repeated REQUEST, its ACK was lost
        if not was_offered and not is_held:
            return self._refuse(request, f"{address} was not offered to you")
        # An offer that made room for another one is good still: who asks for the address goes before who does not.
        is_free = self._is_unbound_for if was_evicted else self._is_free_for
        reservation = place.reservation_of(request)
        if not is_free(mac, address, place, reservation, now):
            return self._refuse(request, f"{address} is in use by another machine")
        is_new = lease is None or (not was_offered and place.free.is_on_trial(address, mac))
        return self._bind(request, place, address, reservation, now, is_stranger=is_new and reservation is None)

    def _keeping(self, request: DhcpPacket, place: Place, address: IPv4Address, now: float) -> Reply | Ignored:
        """A client that believes to hold an address. We are the authority for the network, so doubt gets a NAK."""
        mac = request.mac
        if address not in place:
            return self._refuse(request, f"{address} is not of this network")
        lease = self._leases.get_by_mac(mac)
        if lease is None:
            return self._refuse(request, f"no lease of {address} is known for you")
        if lease.address != address:
            return self._refuse(request, f"your address is {lease.address}")
        reservation = place.reservation_of(request)
        kept = reservation.address if reservation is not None else address
        if kept != address and self._is_free_for(mac, kept, place, reservation, now):
            return self._refuse(request, f"{kept} is reserved for you")
        if not place.may_be_given(address, reservation):
            return self._refuse(request, f"{address} is not given away any more")
        if not self._is_free_for(mac, address, place, reservation, now):
            return self._refuse(request, f"{address} is in use by another machine")
        return self._bind(request, place, address, reservation, now)

    def _bind(
        self,
        request: DhcpPacket,
        place: Place,
        address: IPv4Address,
        reservation: Reservation | None,
        now: float,
        *,
        is_stranger: bool = False,
    ) -> Reply:
        mac = request.mac
        lease_s = self._lease_s(request, place, is_stranger, now)
        hostname = (request.options.get(HOST_NAME) or "")[:_MAX_HOSTNAME]
        earlier = self._leases.get_by_mac(mac)
        client_id = request.options.raw.get(CLIENT_IDENTIFIER.code, b"")
        self._leases.save(Lease(mac, address, now + lease_s, LeaseState.BOUND, hostname, client_id))
        self._offers.drop(mac)
        self._offers.withdraw(address)
        self._probed.forget(address)
        is_renewal = earlier is not None and earlier.address == address and earlier.is_active(now)
        if earlier is not None and earlier.address != address:
            self._free(earlier.address)
        if is_stranger:
            is_short = place.free.is_scarce(now)
            place.free.taken(address, now + lease_s, trial_of=mac, is_short=is_short, circuit=_circuit(request))
        else:
            place.free.taken(address, now + lease_s)
        reply = self._grant(request, place, MessageType.ACK, address, reservation, now, lease_s)
        return replace(reply, is_renewal=is_renewal)

    def _lease_s(self, request: DhcpPacket, place: Place, is_stranger: bool, now: float) -> int:
        lease_s = place.lease_s(request)
        return min(lease_s, TRIAL_S) if is_stranger and place.free.is_scarce(now) else lease_s

    def _free(self, address: IPv4Address) -> None:
        if (place := place_of(address, self._places)) is not None:
            place.free.freed(address)

    # DECLINE, RELEASE, INFORM

    def _decline(self, request: DhcpPacket, place: Place, now: float) -> Ignored:
        address = request.options.get(REQUESTED_ADDRESS)
        if request.options.get(SERVER_IDENTIFIER) != self._config.server_address or address is None:
            return Ignored("DECLINE is not for this server")
        if not self._holds(request.mac, address) or address not in place:
            return Ignored(f"DECLINE of an address that the machine does not hold: {address}")
        if not self._declines.take(request.mac, now) or not place.declines.take("all", now):
            return Ignored(f"DECLINE of too many addresses: {address} stays in the pool")
        self._offers.drop(request.mac)
        self._leases.save(Lease(request.mac, address, now + DECLINED_S, LeaseState.DECLINED))
        place.free.taken(address, now + DECLINED_S)
        return Ignored(
            f"DECLINE, no answer is due: {address} is in use by a stranger, left alone for {DECLINED_S:.0f} s"
        )

    def _release(self, request: DhcpPacket, place: Place, arrival: Arrival) -> Ignored:
        address, now = request.ciaddr, arrival.now
        # systemd-networkd names no server, against table 5 of RFC 2131: then it is the one that it is sent to.
        chosen = request.options.get(SERVER_IDENTIFIER) or arrival.destination
        if chosen != self._config.server_address:
            return Ignored("RELEASE is not for this server")
        if not self._holds(request.mac, address):
            return Ignored(f"RELEASE of an address that the machine does not hold: {address}")
        self._offers.drop(request.mac)
        record = self._leases.get_by_address(address)
        if record is not None and record.mac == request.mac and record.is_active(now):  # else it was but offered
            # Section 4.3.4: the record stays, so that its machine has the same address when it comes back.
            self._leases.save(replace(record, expires_s=now))
            place.free.ended(address, now)
        return Ignored(f"RELEASE, no answer is due: {address} is free")

    def _holds(self, mac: str, address: IPv4Address) -> bool:
        if self._offers.address_of(mac) == address:
            return True
        lease = self._leases.get_by_mac(mac)
        return lease is not None and lease.address == address

    def _inform(self, request: DhcpPacket, place: Place, arrival: Arrival) -> Reply | Ignored:
        address = request.ciaddr if request.ciaddr != NO_ADDRESS else arrival.source
        if address not in place:
            return Ignored(f"INFORM from an address that is not of this network: {address}")
        reservation = place.reservation_of(request)
        return self._grant(request, place, MessageType.ACK, None, reservation, arrival.now, inform_address=address)

    # Answers

    def _grant(
        self,
        request: DhcpPacket,
        place: Place,
        kind: MessageType,
        address: IPv4Address | None,
        reservation: Reservation | None,
        now: float,
        lease_s: int | None = None,
        inform_address: IPv4Address = NO_ADDRESS,
    ) -> Reply:
        """OFFER or ACK of an address; ACK of an INFORM (address None) has neither yiaddr nor lease time."""
        required = {MESSAGE_TYPE.code: bytes((kind,)), **self._identity}
        known = dict(place.options)
        if address is not None:
            if lease_s is None:
                is_stranger = reservation is None and self._leases.get_by_mac(request.mac) is None
                lease_s = self._lease_s(request, place, is_stranger, now)
            required[LEASE_TIME.code] = LEASE_TIME.build(lease_s)
            known[RENEWAL_TIME.code] = RENEWAL_TIME.build(lease_s // 2)
            known[REBINDING_TIME.code] = REBINDING_TIME.build(lease_s * 7 // 8)
        required.update(place.mask)
        if reservation is not None and reservation.hostname:
            known[HOST_NAME.code] = HOST_NAME.build(reservation.hostname)
        client = classify(request)
        boot: BootFile | Ignored = client if isinstance(client, Ignored) else self._choose_boot(client)
        siaddr, file, boot_raw = NO_ADDRESS, b"", {}
        if not isinstance(client, Ignored) and not isinstance(boot, Ignored):
            siaddr, file, more = boot_options(request, client, boot, as_proxy=False)
            boot_raw = dict(more.raw)
        options = order_options(request, required, boot_raw, known)
        packet = answer_packet(request, kind, options, address or NO_ADDRESS, siaddr, file)
        note = ""
        if reservation is not None and address is not None and address != reservation.address:
            note = f"{reservation.address} is reserved for it and in use by another machine still"
        destination = grant_destination(request, address or inform_address)
        return Reply(packet, destination, boot, message_limit(request), note)

    def _refuse(self, request: DhcpPacket, message: str) -> Reply:
        required = {MESSAGE_TYPE.code: bytes((MessageType.NAK,)), **self._identity}
        options = order_options(request, required, {}, {MESSAGE.code: MESSAGE.build(message)})
        packet = answer_packet(request, MessageType.NAK, options)
        return Reply(packet, refusal_destination(request), Ignored(f"NAK: {message}"), message_limit(request))


def _circuit(request: DhcpPacket) -> bytes:
    """The switch port that a packet came in by, as its relay says; empty when none does."""
    relay = request.options.raw.get(RELAY_AGENT.code)
    if relay is None:
        return b""
    inside = relay_sub_options(relay)
    port, switch = inside.get(_CIRCUIT_ID, b""), inside.get(_REMOTE_ID, b"")
    return len(port).to_bytes(2, "big") + port + switch if port else b""
