"""What the settings say about DHCP as the DHCP core takes it: the subnets and reservations of each interface."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from netboot.config.check import Placed, check_own_networks
from netboot.config.loading import Loaded
from netboot.config.mistakes import ConfigError
from netboot.config.settings import AddressRange, Settings, SubnetSettings
from netboot.dhcp.subnets import Pool, Reservation, ServerConfig, Subnet
from netboot.errors import ServiceError
from netboot.services.interface import Interface


def check_settings(settings: Settings, interfaces: Sequence[Interface], loaded: Loaded | None = None) -> None:
    """Hold settings against the addresses of the interfaces. Raises ConfigError with every contradiction.

    `loaded`: where they came from, so that each mistake has its place.
    """
    own = {each.name: IPv4Interface(f"{each.address}/{each.network.prefixlen}") for each in interfaces}
    places = loaded.places if loaded is not None else {}
    place_in_file = loaded.document.place if loaded is not None and loaded.document is not None else None
    if mistakes := check_own_networks(Placed({}, places, place_in_file), settings, own):
        raise ConfigError(mistakes)


def build_server_config(settings: Settings, interface: Interface, others: Sequence[Interface] = ()) -> ServerConfig:
    """What the server gives away through `interface`. `check_settings` before.

    `others`: the other interfaces that are served: their networks are theirs. Networks behind relay agents are served
    by whichever interface a relay agent reaches. Raises ServiceError when there is no room for a pool.
    """
    subnets = {subnet.network: _subnet(settings, subnet) for subnet in settings.subnets}
    try:
        local = subnets.pop(interface.network, None) or _plain_subnet(settings, interface.network)
        for other in others:
            subnets.pop(other.network, None)
        served = (local, *subnets.values())
        return ServerConfig(
            server_address=interface.address,
            local=local,
            relayed=tuple(subnets.values()),
            reservations=tuple(
                Reservation(each.address, each.mac, each.client_id, each.hostname)
                for each in settings.reservations
                if any(subnet.is_host(each.address) for subnet in served)
            ),
            other_addresses=frozenset(other.address for other in others),
        )
    except ValueError as error:
        raise ServiceError(f"{error}: change --pool or --router, or the address of {interface.name}") from error


def default_pool(network: IPv4Network) -> tuple[IPv4Address, IPv4Address]:
    """The upper half of a network, without its broadcast address. ValueError for one that has no room."""
    if network.prefixlen > 29:
        raise ValueError(f"{network} has no room for a pool: name one with --pool, or use --mode proxy")
    return network[network.num_addresses // 2], network[-2]


def _subnet(settings: Settings, subnet: SubnetSettings) -> Subnet:
    return Subnet(
        network=subnet.network,
        pools=tuple(Pool(*each) for each in subnet.pools),
        lease_s=settings.lease_s if subnet.lease_s is None else subnet.lease_s,
        routers=subnet.routers,
        dns_servers=settings.dns if subnet.dns is None else subnet.dns,
        domain=settings.domain if subnet.domain is None else subnet.domain,
        options={**dict(settings.options), **dict(subnet.options)},
    )


def _plain_subnet(settings: Settings, network: IPv4Network) -> Subnet:
    """Of an interface that has no subnet of its own in the settings."""
    pool: AddressRange | None = settings.pool
    if pool is None or pool[0] not in network:  # it is that of another interface
        pool = default_pool(network)
    routers = (settings.router,) if settings.router and settings.router in network else ()
    return _subnet(settings, SubnetSettings(network, (pool,), routers))
