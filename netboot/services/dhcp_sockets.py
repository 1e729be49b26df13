"""The sockets of the DHCP services on one interface: ports 67 and 4011, and raw frames. Parses and sends, no more."""

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from imager.transport.endpoint import set_buffer
from netboot.dhcp.reply import SERVER_PORT, Delivery, Destination, Reply
from netboot.errors import ServiceError
from netboot.services.interface import Interface, bind_udp
from netboot.wire.frame import build_udp_frame

MAX_DATAGRAM_BYTES = 4096
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_PKTINFO = struct.Struct("=I4s4s")
_EVERYBODY = b"\xff" * 6
_RECEIVE_BUFFER_BYTES = 1 << 20
"""A room that is switched on at once sends a few hundred packets in a blink; the kernel counts 2 KiB and more for each,
and its own limit (net.core.rmem_max, 208 KiB as a rule) would hold 180.
"""


@dataclass(frozen=True, slots=True)
class Received:
    """One datagram."""

    data: bytes
    is_cut: bool
    source: IPv4Address
    source_port: int
    destination: IPv4Address


@dataclass(slots=True)
class Port:
    """One UDP port of the interface."""

    sock: socket.socket
    number: int

    def receive(self) -> Received | None:
        """The next datagram, None when none waits. OSError: the interface went down; the socket lives on."""
        try:
            data, ancillary, flags, source = self.sock.recvmsg(MAX_DATAGRAM_BYTES, socket.CMSG_SPACE(_PKTINFO.size))
        except BlockingIOError:
            return None
        is_cut = bool(flags & socket.MSG_TRUNC)
        return Received(data, is_cut, IPv4Address(source[0]), source[1], _destination_of(ancillary))


class DhcpSockets:
    """Open from `open` to `close`."""

    def __init__(self, interface: Interface, ports: tuple[int, ...]) -> None:
        self._interface = interface
        self._numbers = ports
        self.ports: list[Port] = []
        self._raw: socket.socket | None = None

    def open(self) -> None:
        """Bind everything; ServiceError leaves nothing open."""
        try:
            for number in self._numbers:
                self.ports.append(Port(_open_port(self._interface, number), number))
            self._raw = _open_raw(self._interface)
        except ServiceError:
            self.close()
            raise
        except OSError as error:  # no descriptors, no memory
            self.close()
            raise ServiceError(f"DHCP on {self._interface.name}: {error.strerror}") from error

    def close(self) -> None:
        for port in self.ports:
            port.sock.close()
        self.ports.clear()
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def send(self, port: Port, reply: Reply) -> None:
        """Send an answer from `port`. OSError when it cannot leave."""
        payload = reply.build()
        to = reply.destination
        if to.delivery is Delivery.RAW:
            self._send_frame(payload, to, to.mac, port.number)
            return
        try:
            port.sock.sendto(payload, (str(to.address), to.port))
        except BlockingIOError:
            # Answers to addresses that nobody has fill the buffer for the seconds that ARP asks for them: whoever makes
            # up such addresses shall not silence us for the others.
            if (mac := self._mac_of(reply)) is None:
                raise
            self._send_frame(payload, to, mac, port.number)

    def _mac_of(self, reply: Reply) -> bytes | None:
        """Where an answer goes by hardware, None when that is behind a relay or a router."""
        to = reply.destination
        if to.delivery is Delivery.BROADCAST:
            return _EVERYBODY
        is_here = to.port != SERVER_PORT and to.address in self._interface.network
        return reply.packet.chaddr if is_here else None

    def _send_frame(self, payload: bytes, to: Destination, mac: bytes, source_port: int) -> None:
        if self._raw is None:
            raise OSError(errno.EBADF, "the service has ended")
        frame = build_udp_frame(
            payload,
            source_mac=self._interface.mac,
            destination_mac=mac,
            source=self._interface.address,
            source_port=source_port,
            destination=to.address,
            destination_port=to.port,
        )
        self._raw.send(frame)


def _open_port(interface: Interface, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        set_buffer(sock, True, _RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        # Not bound to the interface's address: such a socket receives no broadcast.
        bind_udp(sock, interface, IPv4Address(0), port, "DHCP" if port == SERVER_PORT else "PXE")
    except BaseException:
        sock.close()
        raise
    return sock


def _open_raw(interface: Interface) -> socket.socket:
    try:
        # Protocol 0: it sends, and receives nothing.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    except PermissionError:
        raise ServiceError("no right to send raw frames: run as root or with CAP_NET_RAW") from None
    try:
        sock.bind((interface.name, 0))
    except OSError as error:
        sock.close()
        raise ServiceError(f"raw frames cannot be sent on {interface.name}: {error.strerror}") from None
    return sock


def _destination_of(ancillary: list[tuple[int, int, bytes]]) -> IPv4Address:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _PKTINFO.size:
            return IPv4Address(_PKTINFO.unpack_from(data)[2])
    return IPv4Address(0)
