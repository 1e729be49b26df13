"""Network interfaces by name."""

import contextlib
import fcntl
import socket
import struct

from imager.errors import CastError
from imager.wire.session import PACKET_BYTES_RANGE

_SIOCGIFADDR = 0x8915
_SIOCGIFMTU = 0x8921
USUAL_MTU = 1500
_IPV4_UDP_BYTES = 28


def interface_address(interface: str) -> str:
    """The first IPv4 address of a network interface. Raises CastError when there is no such interface or address."""
    if interface not in {name for _, name in socket.if_nameindex()}:
        raise CastError(f"there is no interface {interface}; `ip link` shows them")
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)
        except OSError as error:
            raise CastError(f"{interface} has no IPv4 address; give it one: ip addr add ADDRESS/LENGTH") from error
    return socket.inet_ntoa(answer[20:24])


def group_packet_bytes(address: str, most_mtu: int = USUAL_MTU) -> int:
    """The length of a cast's packets: what the interface with this address of ours carries, `most_mtu` at most.

    That others carry more than usual is not believed before somebody says so. Raises CastError for an MTU that is too
    small for a cast.
    """
    mtu = min(_mtu(address), most_mtu)
    packet_bytes = min(mtu - _IPV4_UDP_BYTES, PACKET_BYTES_RANGE[-1])
    if packet_bytes not in PACKET_BYTES_RANGE:
        least = PACKET_BYTES_RANGE[0] + _IPV4_UDP_BYTES
        raise CastError(
            f"the interface with {address} has an MTU of {mtu}, and a cast needs {least}: ip link set IF mtu 1500"
        )
    return packet_bytes


def _mtu(address: str) -> int:
    """Of the interface that has the address; the usual one when none has it, which is for others to tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # it has no IPv4 address, or has gone
                if socket.inet_ntoa(fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)[20:24]) == address:
                    (mtu,) = struct.unpack_from("=i", fcntl.ioctl(sock.fileno(), _SIOCGIFMTU, request), 16)
                    return int(mtu)
    return USUAL_MTU
