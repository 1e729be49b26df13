"""The sockets of TFTP transfers: each connected to its client, on one of a few ports.

What anybody else sends to such a port comes to its lobby, the unconnected socket of the same port.
"""

import contextlib
import errno
import itertools
import socket

_UDP_SEGMENT = 103
_SEND_BUFFER_BYTES = 1 << 20
_LOBBY_PORTS = 16
_MIN_SEGMENT_BYTES = 256
"""The kernel cuts whatever is longer than a segment: an option acknowledgement or an error must not be."""
GSO_REFUSED = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP}
"""The kernel does not cut bursts for the way that a packet takes."""


class TransferPorts:
    """Some ports of one address, open as long as this process."""

    def __init__(self, interface: str, address: str) -> None:
        self._interface = interface.encode() + b"\0"
        self._address = address
        opened = [self._bind(0) for _ in range(_LOBBY_PORTS)]
        self.lobbies = {lobby.fileno(): lobby for lobby in opened}
        """By descriptor."""
        self._next_lobby = itertools.cycle(opened)

    def connect(self, peer: tuple[str, int], packet_bytes: int) -> tuple[socket.socket, bool]:
        """A socket to this client, and whether the kernel cuts what it sends into such packets. OSError."""
        sock = self._bind(next(self._next_lobby).getsockname()[1])
        is_segmented = False
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            sock.connect(peer)
            with contextlib.suppress(BlockingIOError):  # what came before it was connected may be anybody's
                while True:
                    sock.recv(1)
            if packet_bytes >= _MIN_SEGMENT_BYTES:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, packet_bytes)
                    is_segmented = True
        except BaseException:
            sock.close()
            raise
        return sock, is_segmented

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if port:  # joins a lobby, which let others join only after it had its port for itself
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface)
            sock.bind((self._address, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except BaseException:
            sock.close()
            raise
        return sock


def stop_segmenting(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 0)
