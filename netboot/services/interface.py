"""The network interface that the appliance serves: found by name, with what the services need to know of it."""

import errno
import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from netboot.errors import ServiceError

# linux/sockios.h
_SIOCGIFADDR = 0x8915
_SIOCGIFNETMASK = 0x891B
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER = 1
_MAX_NAME_BYTES = 15
_BIND_TO_DEVICE_ADVICE = "run as root or with CAP_NET_BIND_SERVICE and CAP_NET_RAW"


@dataclass(frozen=True, slots=True)
class Interface:
    """An Ethernet interface with an IPv4 address."""

    name: str
    index: int
    mac: bytes
    address: IPv4Address
    network: IPv4Network
    mtu: int


def find_interface(name: str) -> Interface:
    """Look an interface up in the calling process's network namespace; ServiceError says what it lacks."""
    if not 0 < len(name.encode()) <= _MAX_NAME_BYTES:
        raise ServiceError(f"{name!r} is not the name of an interface: see `ip link`")
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        known = ", ".join(other for _, other in socket.if_nameindex() if other != "lo") or "none"
        raise ServiceError(f"there is no interface {name}: choose one of {known}") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        kind, mac = struct.unpack_from("=H6s", _ask(sock, _SIOCGIFHWADDR, name), 16)
        if kind != _ARPHRD_ETHER:
            raise ServiceError(f"interface {name} is not Ethernet: machines cannot boot from it, choose another")
        try:
            address = IPv4Address(_ask(sock, _SIOCGIFADDR, name)[20:24])
            netmask = IPv4Address(_ask(sock, _SIOCGIFNETMASK, name)[20:24])
        except OSError:
            raise ServiceError(
                f"interface {name} has no IPv4 address: give it one, e.g. `ip address add 10.77.0.1/24 dev {name}`"
            ) from None
        (mtu,) = struct.unpack_from("=i", _ask(sock, _SIOCGIFMTU, name), 16)
    return Interface(name, index, mac, address, IPv4Network((address, str(netmask)), strict=False), mtu)


def bind_udp(sock: socket.socket, interface: Interface, address: IPv4Address, port: int, what: str) -> None:
    """Bind to one port of one interface; ServiceError tells why it cannot be. `what` names the service.

    Without SO_REUSEADDR: two servers on one port would take each other's packets in silence.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")
        sock.bind((str(address), port))
    except PermissionError:
        raise ServiceError(f"no right to serve {what} on UDP port {port}: {_BIND_TO_DEVICE_ADVICE}") from None
    except OSError as error:
        raise ServiceError(_bind_failure(error, interface, address, port, what)) from None


def _bind_failure(error: OSError, interface: Interface, address: IPv4Address, port: int, what: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"UDP port {port} on {interface.name} is in use, so {what} cannot be served: "
            f"stop the other program (`ss -lunp 'sport = :{port}'` names it)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is no longer an address of {interface.name}: give it back or start again"
    return f"{what} cannot be served on UDP port {port} of {interface.name}: {error.strerror}"


def _ask(sock: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(sock, request, struct.pack("40s", name.encode()))
