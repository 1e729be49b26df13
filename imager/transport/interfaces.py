"""Network interfaces by name, and addresses of ours.

An IPv6 address of ours is written with its interface, fe80::1%e0, whatever its scope: there may be others like it.
"""

import contextlib
import fcntl
import socket
import struct
import time
from ipaddress import IPv6Address
from pathlib import Path

from imager.errors import CastError
from imager.wire.groups import is_ipv6, is_of_link
from imager.wire.session import PACKET_BYTES_RANGE

_SIOCGIFADDR = 0x8915
_SIOCGIFMTU = 0x8921
USUAL_MTU = 1500
LONGEST_MTU = 9263
"""Of jumbo frames: of the longest packets of a cast, with headers of IPv6."""
_IPV4_UDP_BYTES = 28
_IPV6_UDP_BYTES = 48
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
# linux/if_addr.h
_TEMPORARY, _FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_TENTATIVE_S = 3.0
"""An interface that has just come up looks for so long at most whether its address is another's (RFC 4862, 5.4)."""
_LOOK_S = 0.1


def interface_address(interface: str) -> str:
    """The first IPv4 address of a network interface. Raises CastError when there is no such interface or address."""
    check_interface(interface)
    address = _ipv4_address(interface)
    if not address:
        raise CastError(f"{interface} has no IPv4 address; give it one: ip addr add ADDRESS/LENGTH dev {interface}")
    return address


def check_interface(interface: str) -> None:
    """Raises CastError when there is no such interface."""
    if interface not in {name for _, name in socket.if_nameindex()}:
        raise CastError(f"there is no interface {interface}; `ip link` shows them")


def interface_of(address: str) -> str:
    """The interface that has this address of ours; empty when none has it."""
    if is_ipv6(address):
        return address.partition("%")[2]
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if _ipv4_address(name) == address), "")


def interface_with(address: str) -> str:
    """The interface that has this IPv6 address, which need not name it. Raises CastError when none has."""
    host, _, name = address.partition("%")
    names = (each for _, each in socket.if_nameindex())
    wanted = IPv6Address(host)
    found = name or next((each for each in names if wanted in [own for _, own in _ipv6_addresses(each)]), "")
    if not found:
        raise CastError(f"{address} is no address of this machine; name an interface: --interface IF")
    return found


def address_for(group: str, interface: str) -> str:
    """The address of ours that who sends or hears a group on this interface has: of the group's family and scope.

    To a group of the link it is the link's, which everybody there can answer; to others one that routers pass on.
    Waits a little for an address that is being tried. Raises CastError when there is none.
    """
    if not is_ipv6(group):
        return interface_address(interface)
    check_interface(interface)
    end = time.monotonic() + _TENTATIVE_S
    while True:
        found = _ipv6_addresses(interface)
        fitting = [each for each in found if is_of_link(group) == each[1].is_link_local and not each[1].is_loopback]
        usable = [each for each in fitting if not each[0] & (_TENTATIVE | _FAILED)]
        if usable:
            return f"{min(usable)[1]}%{interface}"
        if not any(flags & _TENTATIVE for flags, _ in fitting) or time.monotonic() >= end:
            break
        time.sleep(_LOOK_S)
    if is_of_link(group):
        raise CastError(
            f"{interface} has no IPv6 address, and {group} is an IPv6 group; switch IPv6 on: "
            f"sysctl net.ipv6.conf.{interface}.disable_ipv6=0"
        )
    raise CastError(
        f"{interface} has no IPv6 address that routers pass on, and {group} is no group of the link; give it one: "
        f"ip addr add ADDRESS/LENGTH dev {interface}"
    )


def group_packet_bytes(address: str, most_mtu: int | None = None) -> int:
    """The length of a cast's packets: what the interface with this address of ours carries, `most_mtu` at most.

    None: as Ethernet has it; more than jumbo frames, as of the loopback, says nothing of a network. Raises CastError
    for an MTU that is too small for a cast.
    """
    mtu = _mtu(interface_of(address))
    if most_mtu is not None:
        mtu = min(mtu, most_mtu)
    elif mtu > LONGEST_MTU:
        mtu = USUAL_MTU
    headers = _IPV6_UDP_BYTES if is_ipv6(address) else _IPV4_UDP_BYTES
    packet_bytes = min(mtu - headers, PACKET_BYTES_RANGE[-1])
    if packet_bytes not in PACKET_BYTES_RANGE:
        least = PACKET_BYTES_RANGE[0] + headers
        raise CastError(
            f"the interface with {address} has an MTU of {mtu}, and a cast needs {least}: ip link set IF mtu 1500"
        )
    return packet_bytes


def _mtu(interface: str) -> int:
    """The usual one when there is no such interface, which is for others to tell."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        (mtu,) = struct.unpack_from("=i", fcntl.ioctl(sock.fileno(), _SIOCGIFMTU, request), 16)
        return int(mtu)
    return USUAL_MTU


def _ipv4_address(interface: str) -> str:
    """The first; empty when it has none, or has gone."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        return socket.inet_ntoa(fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)[20:24])
    return ""


def _ipv6_addresses(interface: str) -> list[tuple[int, IPv6Address]]:
    """Flags and address of each: those that last sort before those that do not."""
    found = []
    with contextlib.suppress(OSError):  # a kernel without IPv6
        for line in _IPV6_ADDRESSES.read_text().splitlines():
            address, _, _, _, flags, name = line.split()
            if name == interface:
                found.append((int(flags, 16) & (_TEMPORARY | _FAILED | _DEPRECATED | _TENTATIVE), address))
    return [(flags, IPv6Address(bytes.fromhex(address))) for flags, address in found]
