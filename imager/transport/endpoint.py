"""UDP sockets of the cast: many packets a system call, by the kernel's segmentation (GSO) and coalescing (GRO).

Where the kernel refuses either, the same packets go one by one. No protocol here.
"""

import contextlib
import errno
import socket
import struct
import time

import numpy as np

from imager.errors import CastError
from imager.multicast.pace import max_burst
from imager.transport.group_socket import aim, family_of, hear, socket_address
from imager.wire.seal import ByteArray
from imager.wire.session import PACKET_BYTES

# Linux: include/uapi/linux/udp.h and asm-generic/socket.h; Python names only some of them.
_UDP_SEGMENT = 103
_UDP_GRO = 104
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
"""SK_MEMINFO_*, the last of which are the drops: include/uapi/linux/sock_diag.h."""

_SEND_BUFFER = 256 << 10
"""Below what a network card's queue holds: a sender that is faster than its line waits, instead of losing there."""
RECEIVE_BUFFER = 32 << 20
_CONTROL_BUFFER = 4 << 20
_DATAGRAM_BYTES = 65536
"""Longest that one receive can give: a datagram, or what GRO joins."""
_BATCH_BYTES = 6 * _DATAGRAM_BYTES
_READS = 256
"""Receives into one batch at most: after losses the kernel joins few packets, and gives them in small pieces."""
_NO_WAY_OUT = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENODEV, errno.EADDRNOTAVAIL})


def set_buffer(sock: socket.socket, receive: bool, size: int) -> None:
    """Ask for a buffer beyond the system's limit where we may, else up to it."""
    force, plain = (_SO_RCVBUFFORCE, socket.SO_RCVBUF) if receive else (_SO_SNDBUFFORCE, socket.SO_SNDBUF)
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size)


class GroupSender:
    """Sends packets of one length to a multicast group."""

    def __init__(
        self,
        group: str,
        port: int,
        interface_address: str,
        ttl: int,
        use_gso: bool = True,
        packet_bytes: int = PACKET_BYTES,
    ) -> None:
        """Raises OSError when the address is not of this machine."""
        self._packet_bytes = packet_bytes
        self._socket = socket.socket(family_of(group), socket.SOCK_DGRAM)
        try:
            aim(self._socket, interface_address, ttl)
            set_buffer(self._socket, False, _SEND_BUFFER)
            self._socket.bind(socket_address(interface_address, 0))
            self._socket.connect(socket_address(group, port, interface_address.partition("%")[2]))
            self.gso = use_gso and self._enable_gso()
        except BaseException:
            self._socket.close()
            raise
        self._send_bytes = (max_burst(packet_bytes) if self.gso else 1) * packet_bytes
        self.unsent = 0
        """Packets that found no way out: no cable, no route."""

    def _enable_gso(self) -> bool:
        try:
            self._socket.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, self._packet_bytes)
        except OSError:
            return False
        return True

    def send(self, packets: ByteArray) -> None:
        """Send all packets of a contiguous array (n, packet bytes); waits while the link is busy."""
        data = packets.data.cast("B")
        start = 0
        while start < len(data):
            part = data[start : start + self._send_bytes]
            try:
                self._send(part)
            except OSError as error:
                # a device without checksum offload, or an old kernel: the same packets, one by one from now on
                if not self.gso or error.errno not in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP):
                    raise
                self._socket.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, 0)
                self.gso = False
                self._send_bytes = self._packet_bytes
                continue
            start += len(part)

    def _send(self, data: memoryview) -> None:
        for _ in range(100):
            try:
                self._socket.send(data)
                return
            except OSError as error:
                if error.errno in _NO_WAY_OUT:
                    break
                if error.errno != errno.ENOBUFS:
                    raise
            time.sleep(0.001)
        self.unsent += len(data) // self._packet_bytes
        time.sleep(0.001)

    def close(self) -> None:
        self._socket.close()


class GroupReceiver:
    """Receives packets of one length of a multicast group, many a call."""

    def __init__(
        self,
        group: str,
        port: int,
        interface_address: str,
        use_gro: bool = True,
        buffer_bytes: int = RECEIVE_BUFFER,
        packet_bytes: int = PACKET_BYTES,
    ) -> None:
        """Raises OSError when the group cannot be joined on that interface."""
        self._socket = socket.socket(family_of(group), socket.SOCK_DGRAM)
        try:
            set_buffer(self._socket, True, buffer_bytes)
            self._membership = hear(self._socket, group, port, interface_address)
            self._socket.setblocking(False)
            self.gro = use_gro and self._enable_gro()
        except BaseException:
            self._socket.close()
            raise
        self._buffer = np.zeros(_BATCH_BYTES, np.uint8)
        self._view = self._buffer.data
        most = _BATCH_BYTES // packet_bytes
        self.batch: ByteArray = self._buffer[: most * packet_bytes].reshape(most, packet_bytes)
        """Where received packets lie: every batch begins at its first row."""
        self.foreign = 0
        """Datagrams of another length: not of the cast."""
        self.is_drained = False
        """The last batch took all that had arrived."""

    def _enable_gro(self) -> bool:
        try:
            self._socket.setsockopt(socket.SOL_UDP, _UDP_GRO, 1)
        except OSError:
            return False
        return True

    def fileno(self) -> int:
        return self._socket.fileno()

    def join_again(self) -> None:
        """Leave and join the group, so that the switches hear of it."""
        with contextlib.suppress(OSError):  # the interface may be gone for a while
            self._membership.leave()
        with contextlib.suppress(OSError):
            self._membership.join()

    def receive(self) -> ByteArray:
        """What has arrived, shape (n, packet bytes), n 0 when nothing has; valid until the next call."""
        end = 0
        packet_bytes = self.batch.shape[1]
        room = len(self._view) - _DATAGRAM_BYTES
        receive_into = self._socket.recv_into
        self.is_drained = True
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):  # bounded: foreign datagrams do not advance `end`
                if end > room:
                    break
                got = receive_into(self._view[end : end + _DATAGRAM_BYTES])
                foreign = got % packet_bytes
                if foreign or not got:
                    self.foreign += 1
                end += got - foreign
            self.is_drained = False
        return self.batch[: end // packet_bytes]

    def overruns(self) -> int:
        """What the kernel has dropped so far because it was not taken in time: datagrams, or several joined. Wraps."""
        told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        drops: int = _MEMINFO.unpack(told)[-1]
        return drops

    def close(self) -> None:
        self._socket.close()


def open_control(address: str, port: int) -> socket.socket:
    """The sender's unicast socket. Raises CastError when the port is in use or the address not of this machine."""
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    try:
        set_buffer(sock, True, _CONTROL_BUFFER)
        sock.bind(socket_address(address, port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise CastError(f"cannot use UDP port {port} of {address}: {error.strerror}") from error
    return sock
