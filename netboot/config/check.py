"""Whether settings hold together: ranges, subnets, reservations and ports that get in each other's way. Pure.

What depends on the addresses of the interfaces is checked by `check_own_networks`, when they are known.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from imager.wire.groups import is_of_link
from netboot.config.mistakes import Mistake, spell
from netboot.config.settings import (
    CONTROL_PORTS,
    DATA_PORTS,
    AddressRange,
    ReservationSettings,
    Settings,
    SubnetSettings,
)
from netboot.config.toml_lines import Path

_PXE_PORT = 4011


@dataclass(frozen=True, slots=True)
class Placed:
    """Parsed settings by field, perhaps some of them only, with where they came from."""

    values: Mapping[str, Any]
    places: Mapping[str, str]
    place_in_file: Callable[[Path], str] | None = None

    def mistake(self, path: Path, problem: str, example: str = "") -> Mistake:
        where = self.place_in_file(path) if self.place_in_file else ""
        return Mistake(where, spell(path), problem, example)

    def mistake_of(self, field: str, problem: str) -> Mistake:
        return Mistake(self.places.get(field, ""), field.replace("_", "-"), problem)


def check_relations(placed: Placed) -> list[Mistake]:
    """What contradicts itself without a look at this machine."""
    subnets = _present(placed.values.get("subnets"))
    reservations = _present(placed.values.get("reservations"))
    mistakes = [*_subnets(placed, subnets), *_reservations(placed, reservations), *_ports(placed), *_hops(placed)]
    for number, reservation in reservations:
        mistakes += _reserved_in(placed, number, reservation, subnets)
    return mistakes


def check_own_networks(placed: Placed, settings: Settings, own: Mapping[str, IPv4Interface]) -> list[Mistake]:
    """What contradicts the addresses of the interfaces: all of them must be given, by name."""
    mistakes: list[Mistake] = []
    subnets = list(enumerate(settings.subnets))
    names = list(own)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            if own[name].network.overlaps(own[other].network):
                text = f"{name} ({own[name]}) and {other} ({own[other]}) are in one network: serve one of them"
                mistakes.append(placed.mistake_of("interfaces", text))
    for number, subnet in subnets:
        for name, interface in own.items():
            if subnet.network != interface.network and subnet.network.overlaps(interface.network):
                text = f"{subnet.network} overlaps {interface.network}, the network of {name}"
                mistakes.append(placed.mistake(("subnet", number, "network"), text))
        for pool, (first, last) in enumerate(subnet.pools):
            for name, interface in own.items():
                if first <= interface.ip <= last:
                    text = f"{first}-{last} holds {interface.ip}, the address of {name}"
                    mistakes.append(placed.mistake(("subnet", number, "pools", pool), text))
    covered = {subnet.network for subnet in settings.subnets}
    plain = [interface for interface in own.values() if interface.network not in covered]
    mistakes += _plain_pool(placed, settings, plain, own)
    everywhere = [subnet.network for subnet in settings.subnets] + [interface.network for interface in plain]
    for number, reservation in enumerate(settings.reservations):
        for name, interface in own.items():
            if reservation.address == interface.ip:
                text = f"{reservation.address} is the address of {name}"
                mistakes.append(placed.mistake(("reservation", number, "address"), text))
        if not any(_is_host(network, reservation.address) for network in everywhere):
            text = f"{reservation.address} is a machine's address in none of {_names(everywhere)}"
            mistakes.append(placed.mistake(("reservation", number, "address"), text))
    return mistakes


def _plain_pool(
    placed: Placed, settings: Settings, plain: Sequence[IPv4Interface], own: Mapping[str, IPv4Interface]
) -> Iterator[Mistake]:
    """`pool` and `router` belong to an interface's network that has no subnet of its own."""
    networks = [interface.network for interface in plain]
    if settings.pool is not None:
        first, last = settings.pool
        if not any(_is_host(network, first) and _is_host(network, last) for network in networks):
            where = f"the network of an interface ({_names(networks)})" if networks else "a network without [[subnet]]"
            yield placed.mistake_of("pool", f"{first}-{last} is not inside {where}")
        for name, interface in own.items():
            if first <= interface.ip <= last:
                yield placed.mistake_of("pool", f"{first}-{last} holds {interface.ip}, the address of {name}")
    if settings.router is not None and not any(_is_host(network, settings.router) for network in networks):
        where = _names(networks) if networks else "a network without [[subnet]]"
        yield placed.mistake_of("router", f"{settings.router} is not inside {where}")


def _subnets(placed: Placed, subnets: Sequence[tuple[int, SubnetSettings]]) -> Iterator[Mistake]:
    for position, (number, subnet) in enumerate(subnets):
        for other, earlier in subnets[:position]:
            if subnet.network.overlaps(earlier.network):
                text = f"{subnet.network} overlaps {earlier.network} of {spell(('subnet', other))}"
                yield placed.mistake(("subnet", number, "network"), text)
        yield from _pools(placed, number, subnet)
        for index, router in enumerate(subnet.routers):
            if not _is_host(subnet.network, router):
                text = f"{router} is not inside {subnet.network}: machines cannot reach it"
                yield placed.mistake(("subnet", number, "routers", index), text)


def _pools(placed: Placed, number: int, subnet: SubnetSettings) -> Iterator[Mistake]:
    for index, (first, last) in enumerate(subnet.pools):
        path: Path = ("subnet", number, "pools", index)
        if not (_is_host(subnet.network, first) and _is_host(subnet.network, last)):
            text = f"{first}-{last} is not inside {_first_host(subnet.network)}-{subnet.network[-2]}"
            yield placed.mistake(path, text)
        for other in range(index):
            if _overlap(subnet.pools[other], (first, last)):
                text = f"{first}-{last} overlaps {subnet.pools[other][0]}-{subnet.pools[other][1]}"
                yield placed.mistake(path, text)


def _reservations(placed: Placed, reservations: Sequence[tuple[int, ReservationSettings]]) -> Iterator[Mistake]:
    seen: dict[tuple[str, object], int] = {}
    for number, reservation in reservations:
        for name, value, words in (
            ("address", reservation.address, str(reservation.address)),
            ("mac", reservation.mac, reservation.mac),
            ("client-id", reservation.client_id, reservation.client_id.hex(":")),
        ):
            if value:
                earlier = seen.setdefault((name, value), number)
                if earlier != number:
                    text = f"{words} is in {spell(('reservation', earlier))} already"
                    yield placed.mistake(("reservation", number, name), text)


def _reserved_in(
    placed: Placed, number: int, reservation: ReservationSettings, subnets: Sequence[tuple[int, SubnetSettings]]
) -> Iterator[Mistake]:
    """An address inside a subnet must be one that a machine can have; one outside all may be in an interface's."""
    for _, subnet in subnets:
        if reservation.address in subnet.network and not _is_host(subnet.network, reservation.address):
            text = f"{reservation.address} is the network's own or its broadcast address in {subnet.network}"
            yield placed.mistake(("reservation", number, "address"), text)


def _ports(placed: Placed) -> Iterator[Mistake]:
    data = int(placed.values.get("data_port_base", Settings(("none",)).data_port_base))
    control = int(placed.values.get("control_port_base", Settings(("none",)).control_port_base))
    if data < control + CONTROL_PORTS and control < data + DATA_PORTS:
        text = (
            f"control ports {control} to {control + CONTROL_PORTS - 1} overlap "
            f"data ports {data} to {data + DATA_PORTS - 1}"
        )
        given = "control_port_base" if "control_port_base" in placed.places else "data_port_base"
        yield placed.mistake_of(given, text)
    for field, first, count in (("data_port_base", data, DATA_PORTS), ("control_port_base", control, CONTROL_PORTS)):
        if first <= _PXE_PORT < first + count:
            yield placed.mistake_of(
                field, f"ports {first} to {first + count - 1} hold {_PXE_PORT}, which is proxyDHCP's"
            )


def _hops(placed: Placed) -> Iterator[Mistake]:
    """Groups of the link pass no router."""
    network, ttl = placed.values.get("cast_network"), placed.values.get("cast_ttl", 1)
    if network is not None and ttl is not None and int(ttl) > 1 and is_of_link(str(network[0])):
        text = f"{ttl} has no effect on groups of {network}, which stay on the link: take cast-network ff15::a077:0/112"
        yield placed.mistake_of("cast_ttl", text)


def _present(items: Sequence[Any] | None) -> list[tuple[int, Any]]:
    """Those that could be parsed, with their numbers."""
    return [(number, item) for number, item in enumerate(items or ()) if item is not None]


def _is_host(network: IPv4Network, address: IPv4Address) -> bool:
    return network.network_address < address < network.broadcast_address


def _first_host(network: IPv4Network) -> IPv4Address:
    return network[1]


def _overlap(one: AddressRange, other: AddressRange) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _names(networks: Sequence[IPv4Network]) -> str:
    return ", ".join(str(network) for network in networks) or "no network"
