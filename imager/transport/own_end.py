"""Where this machine is on the network of a file cast: an interface, by name or by the system's routes."""

import socket
from dataclasses import dataclass

from imager.errors import CastError
from imager.transport.interfaces import address_for, check_interface, interface_address, interface_of, interface_with
from imager.wire.groups import DISCOVERY_GROUP, discovery_groups6, is_ipv6

_ANY_PORT = 7710


@dataclass(frozen=True, slots=True)
class OwnEnd:
    """An interface with its IPv4 address; either may be empty, not both."""

    ipv4: str
    interface: str

    def address_for(self, group: str) -> str:
        """Raises CastError when this machine has none that goes with the group."""
        if is_ipv6(group):
            if not self.interface:
                raise CastError(f"it is not known which interface has {self.ipv4}; name it: --interface IF")
            return address_for(group, self.interface)
        if not self.ipv4:
            interface_address(self.interface)
        return self.ipv4


def find_own_end(interface: str | None, peer: str = DISCOVERY_GROUP) -> OwnEnd:
    """Of an interface; when none is named, of the one that the system would reach `peer` by, an address or a name.

    Raises CastError when there is none.
    """
    if interface is not None:
        check_interface(interface)
        try:
            return OwnEnd(interface_address(interface), interface)
        except CastError as none:
            try:
                address_for(discovery_groups6()[0], interface)
            except CastError:
                raise none from None
            return OwnEnd("", interface)
    own = _source_address(peer)
    if not is_ipv6(own):
        return OwnEnd(own, interface_of(own))
    name = interface_with(own)
    try:
        return OwnEnd(interface_address(name), name)
    except CastError:
        return OwnEnd("", name)


def _source_address(peer: str) -> str:
    try:
        family, kind, _, _, target = socket.getaddrinfo(peer, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as sock:
            sock.connect(target)
            own = sock.getsockname()
    except OSError as error:
        raise CastError(f"no route to {peer}; name an interface: --interface IF") from error
    address: str = own[0]
    return address
