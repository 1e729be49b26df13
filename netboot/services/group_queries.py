"""How members of groups are asked for, by IPv4 and IPv6: what a querier and who looks for one need of either."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from imager.errors import CastError
from imager.transport.interfaces import address_for
from imager.wire.groups import discovery_groups6, without_interface
from netboot.errors import ServiceError
from netboot.services.capture import IGMP, MLD
from netboot.services.interface import Interface
from netboot.wire import igmp, mld

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class QueryWay:
    """By one of the two protocols, on one interface."""

    protocol: str
    """IGMP or MLD."""
    own: Address
    """Where our queries come from: of IPv6 the address of the link (RFC 3810, section 5.1.14)."""
    program: tuple[tuple[int, int, int, int], ...]
    """For Capture: what passes it may be a query."""
    read: Callable[[bytes], igmp.Query | None]
    build: Callable[[float, int], bytes]
    """A general query of ours, from the time to answer and the interval, in seconds."""

    def own_on(self, interface: Interface) -> str:
        """Our address as a membership wants it."""
        return f"{self.own}%{interface.name}" if self.own.version == 6 else str(self.own)


def query_way(interface: Interface, group: Address) -> QueryWay:
    """As groups like this one are asked about. Waits for an address of IPv6 that is being tried.

    Raises ServiceError when the interface has no address for it.
    """
    mac = interface.mac
    if isinstance(group, IPv4Address):
        own = interface.address
        return QueryWay("IGMP", own, IGMP, igmp.read_query, lambda *times: igmp.build_general_query(mac, own, *times))
    try:
        of_link = IPv6Address(without_interface(address_for(discovery_groups6()[0], interface.name)))
    except CastError as error:
        raise ServiceError(str(error)) from error
    return QueryWay("MLD", of_link, MLD, mld.read_query, lambda *times: mld.build_general_query(mac, of_link, *times))
