"""The subnets of one server as it works with them: which one a packet is from, and what each says. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address

from netboot.dhcp.free import FreeAddresses
from netboot.dhcp.intake import Allowances
from netboot.dhcp.leases import LeaseRepository
from netboot.dhcp.reply import Arrival
from netboot.dhcp.subnets import SHORTEST_LEASE_S, Reservation, ServerConfig, Subnet
from netboot.model import Ignored
from netboot.wire.dhcp import NO_ADDRESS, DhcpPacket
from netboot.wire.dhcp_options import (
    BROADCAST_ADDRESS,
    CLIENT_IDENTIFIER,
    DNS_SERVERS,
    DOMAIN_NAME,
    LEASE_TIME,
    LINK_SELECTION,
    RELAY_AGENT,
    ROUTERS,
    SUBNET_MASK,
    SUBNET_SELECTION,
    MessageType,
    relay_sub_options,
)

DECLINED_S = 600.0
"""How long an address that was found in use is left alone."""
_FEWEST_DECLINES = 4


class Place:
    """One subnet: its free addresses, its reservations, its options."""

    def __init__(self, subnet: Subnet, config: ServerConfig, leases: LeaseRepository) -> None:
        self.subnet = subnet
        self.is_local = subnet is config.local
        self.reserved = {item.address: item for item in config.reservations if subnet.is_host(item.address)}
        self._of_mac = {item.mac: item for item in self.reserved.values() if item.mac}
        self._of_client_id = {item.client_id: item for item in self.reserved.values() if item.client_id}
        self.never_given = {config.server_address, *subnet.routers, *subnet.dns_servers}
        self.free = FreeAddresses(subnet, self.never_given | set(self.reserved), leases)
        declines = max(_FEWEST_DECLINES, self.free.size // 4)
        self.declines = Allowances(declines / DECLINED_S, declines, 1)
        """A host that declines whatever it gets puts away a part of the pool, and no more."""
        self.mask = {SUBNET_MASK.code: subnet.network.netmask.packed}
        self.options = {BROADCAST_ADDRESS.code: subnet.network.broadcast_address.packed}
        if subnet.routers:
            self.options[ROUTERS.code] = ROUTERS.build(subnet.routers)
        if subnet.dns_servers:
            self.options[DNS_SERVERS.code] = DNS_SERVERS.build(subnet.dns_servers)
        if subnet.domain:
            self.options[DOMAIN_NAME.code] = DOMAIN_NAME.build(subnet.domain)
        self.options.update(subnet.options)
        self._first, self._bits = int(subnet.network.network_address), int(subnet.network.netmask)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and int(address) & self._bits == self._first

    def reservation_of(self, request: DhcpPacket) -> Reservation | None:
        """By MAC, else by client identifier."""
        if not self.reserved:
            return None
        found = self._of_mac.get(request.mac)
        return found or self._of_client_id.get(request.options.raw.get(CLIENT_IDENTIFIER.code, b""))

    def may_be_given(self, address: IPv4Address, to: Reservation | None) -> bool:
        """Whether this address is ours to give, and to this machine."""
        reservation = self.reserved.get(address)
        if reservation is not None:
            return reservation == to
        return address not in self.never_given and self.subnet.in_pools(address)

    def lease_s(self, request: DhcpPacket) -> int:
        """As long as asked for, within the subnet's time (RFC 2131, section 4.3.1)."""
        asked = request.options.get(LEASE_TIME)
        if asked is None:
            return self.subnet.lease_s
        return max(SHORTEST_LEASE_S, min(asked, self.subnet.lease_s))

    def describe(self) -> str:
        names = ", ".join(str(pool) for pool in self.subnet.pools)
        return f"all {self.free.size} addresses of {names}" if names else f"{self.subnet.network} has no pool, and all"


def place_of(address: IPv4Address, places: Sequence[Place]) -> Place | None:
    for place in places:
        if address in place:
            return place
    return None


def find_place(
    request: DhcpPacket, arrival: Arrival, places: Sequence[Place], server_address: IPv4Address
) -> Place | Ignored:
    """The subnet that the machine is in: as its relay tells, as it asks, else the interface's own."""
    giaddr = request.giaddr
    if giaddr != NO_ADDRESS:
        relay = request.options.raw.get(RELAY_AGENT.code)
        link = relay_sub_options(relay).get(LINK_SELECTION) if relay is not None else None
        if link is not None and len(link) == 4:
            return _configured(IPv4Address(link), f"link selection of the relay {giaddr}", places)
    chosen = request.options.get(SUBNET_SELECTION)
    if chosen is not None:
        return _configured(chosen, "subnet selection, option 118", places)
    if giaddr != NO_ADDRESS:
        return _configured(giaddr, f"relayed, giaddr {giaddr}", places)
    ciaddr = request.ciaddr
    if ciaddr != NO_ADDRESS and ciaddr not in places[0]:
        # Who renews, releases or informs speaks to us directly, past its relay.
        is_direct = arrival.destination == server_address or request.message_type is MessageType.RELEASE
        if is_direct:
            return _configured(ciaddr, f"ciaddr {ciaddr}", places)
    return places[0]


def _configured(address: IPv4Address, how: str, places: Sequence[Place]) -> Place | Ignored:
    place = place_of(address, places)
    if place is None:
        return Ignored(f"from a network without a pool: {how}; add a [[subnet]] whose network holds {address}")
    return place
