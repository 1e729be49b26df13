"""What is given away where: subnets with their pools, reservations, and one interface's part of them. Pure: values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

SHORTEST_LEASE_S = 60


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses that are given away, both ends included."""

    first: IPv4Address
    last: IPv4Address

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"pool {self} ends before it starts")

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1


@dataclass(frozen=True, slots=True)
class Subnet:
    """One network, what is given away in it, and what its machines are told."""

    network: IPv4Network
    pools: tuple[Pool, ...]
    """None: only reserved addresses are given away."""
    lease_s: int = 12 * 3600
    """A client that asks for less gets less, none gets more."""
    routers: tuple[IPv4Address, ...] = ()
    dns_servers: tuple[IPv4Address, ...] = ()
    domain: str = ""
    options: Mapping[int, bytes] = field(default_factory=dict)
    """More options by code, as they are sent (`parse_custom_option` makes them)."""

    def __post_init__(self) -> None:
        if self.lease_s < SHORTEST_LEASE_S:
            raise ValueError(f"a lease of less than {SHORTEST_LEASE_S} seconds keeps clients renewing")
        ordered = sorted(self.pools, key=lambda pool: pool.first)
        for pool in ordered:
            if pool.first not in self.network or pool.last not in self.network:
                raise ValueError(f"pool {pool} is not inside {self.network}")
            if not (self.is_host(pool.first) and self.is_host(pool.last)):
                raise ValueError(f"pool {pool} holds the network's own or its broadcast address")
        for lower, upper in pairwise(ordered):
            if lower.last >= upper.first:
                raise ValueError(f"pools {lower} and {upper} overlap")

    def is_host(self, address: IPv4Address) -> bool:
        """Whether a machine of this network can have this address."""
        if address not in self.network:
            return False
        if self.network.prefixlen >= 31:
            return True  # RFC 3021: no broadcast address
        return self.network.network_address < address < self.network.broadcast_address

    def in_pools(self, address: IPv4Address) -> bool:
        return any(address in pool for pool in self.pools)


@dataclass(frozen=True, slots=True)
class Reservation:
    """An address that one machine gets and no other, known by its MAC or else by its client identifier."""

    address: IPv4Address
    mac: str = ""
    """Lower case, colons."""
    client_id: bytes = b""
    """Option 61, type byte included."""
    hostname: str = ""
    """Sent to the machine (option 12); empty: not sent."""

    def __post_init__(self) -> None:
        if bool(self.mac) == bool(self.client_id):
            raise ValueError(f"the reservation of {self.address} needs a MAC or a client identifier, one of the two")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What the server of one interface gives away."""

    server_address: IPv4Address
    """The interface's own: option 54, never given away."""
    local: Subnet
    """The network that the interface is in."""
    relayed: tuple[Subnet, ...] = ()
    """Networks whose relay agents reach us through this interface."""
    reservations: tuple[Reservation, ...] = ()
    probe: bool = True
    """Ask whether an address is in use before it is offered (RFC 2131, section 3.1): see `ProbeFirst`."""
    other_addresses: frozenset[IPv4Address] = frozenset()
    """Of our servers on other interfaces, which share leases and offers: their offers are not a stranger's."""

    def __post_init__(self) -> None:
        subnets = self.subnets
        for index, subnet in enumerate(subnets):
            for other in subnets[index + 1 :]:
                if subnet.network.overlaps(other.network):
                    raise ValueError(f"subnets {subnet.network} and {other.network} overlap")
        addresses: set[IPv4Address] = set()
        clients: set[tuple[str | bytes, IPv4Network]] = set()
        for reservation in self.reservations:
            address, client = reservation.address, reservation.mac or reservation.client_id
            network = next((subnet.network for subnet in subnets if subnet.is_host(address)), None)
            if network is None:
                raise ValueError(f"the reserved address {address} is not a machine's address in any subnet")
            if address == self.server_address:
                raise ValueError(f"the reserved address {address} is the appliance's own")
            if address in addresses:
                raise ValueError(f"the address {address} is reserved twice")
            if (client, network) in clients:
                name = client if isinstance(client, str) else client.hex(":")
                raise ValueError(f"{name} has two reservations in {network}")
            addresses.add(address)
            clients.add((client, network))

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        return (self.local, *self.relayed)
