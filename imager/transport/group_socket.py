"""UDP and TCP sockets of either IP version: how each sends to a group, joins one, and names an address. No protocol."""

import contextlib
import socket
import struct
from typing import Any

from imager.wire.groups import is_ipv6, without_interface

# Linux: include/uapi/linux/in.h and in6.h; Python names only some of them.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_DO = 2


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if is_ipv6(address) else socket.AF_INET


def socket_address(address: str, port: int, interface: str = "") -> tuple[Any, ...]:
    """What bind, connect and sendto want. `interface`: of an address that does not name its own.

    Raises OSError when there is no such interface.
    """
    if not is_ipv6(address):
        return address, port
    name = address.partition("%")[2] or interface
    return without_interface(address), port, 0, socket.if_nametoindex(name) if name else 0


def address_of(source: tuple[Any, ...]) -> str:
    """Where a datagram came from; of IPv6's link with the interface that it came by, unless that has gone."""
    host = str(source[0])
    if len(source) == 4 and source[3]:
        with contextlib.suppress(OSError):
            return f"{host}%{socket.if_indextoname(source[3])}"
    return host


def aim(sock: socket.socket, own: str, ttl: int) -> None:
    """Have what the socket sends to groups leave by the interface of an address of ours. Raises OSError.

    DF is set: a packet that does not fit somewhere is lost there, and not in pieces whose every loss is a whole loss.
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket_address(own, 0)[3])
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        return
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)


def hear(sock: socket.socket, group: str, port: int, own: str) -> "Membership":
    """Bind to a group and join it on the interface of an address of ours. Raises OSError."""
    interface = own.partition("%")[2]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(socket_address(group, port, interface))
    membership = Membership(sock, group, own)
    membership.join()
    return membership


class Membership:
    """Of one socket in a group."""

    def __init__(self, sock: socket.socket, group: str, own: str) -> None:
        self._socket = sock
        if is_ipv6(group):
            index = socket_address(own, 0)[3]
            self._request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", index)
            self._level, self._join, self._leave = (
                socket.IPPROTO_IPV6,
                socket.IPV6_JOIN_GROUP,
                socket.IPV6_LEAVE_GROUP,
            )
        else:
            self._request = socket.inet_aton(group) + socket.inet_aton(own)
            self._level, self._join, self._leave = (
                socket.IPPROTO_IP,
                socket.IP_ADD_MEMBERSHIP,
                socket.IP_DROP_MEMBERSHIP,
            )

    def join(self) -> None:
        """Raises OSError."""
        self._socket.setsockopt(self._level, self._join, self._request)

    def leave(self) -> None:
        """Raises OSError."""
        self._socket.setsockopt(self._level, self._leave, self._request)
