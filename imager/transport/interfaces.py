"""Network interfaces by name."""

import fcntl
import socket
import struct

from imager.errors import CastError

_SIOCGIFADDR = 0x8915


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
