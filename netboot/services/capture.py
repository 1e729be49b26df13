"""A packet socket that sees a few frames of one interface: those that come in, and those that this machine sends.

A filter in the kernel picks them, so that a cast at full rate does not pass through here.
"""

import ctypes
import errno
import socket
import struct
import time
from types import TracebackType
from typing import Self

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1
_PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h
_SOL_PACKET = 263
_LONGEST_FRAME = 9216

# Classic BPF (linux/bpf_common.h): code, jump if true, jump if false, operand. Untagged Ethernet.
_LOAD_HALF, _LOAD_BYTE, _LOAD_HALF_INDEXED, _LOAD_BYTE_INDEXED = 0x28, 0x30, 0x48, 0x50
_LOAD_HEADER_LENGTH = 0xB1
_JUMP_EQUAL, _JUMP_BITS = 0x15, 0x45
_RETURN = 0x06

DHCP_ANSWERS: tuple[tuple[int, int, int, int], ...] = (
    (_LOAD_HALF, 0, 0, 12),
    (_JUMP_EQUAL, 0, 11, 0x0800),
    (_LOAD_BYTE, 0, 0, 23),
    (_JUMP_EQUAL, 0, 9, 17),
    (_LOAD_HALF, 0, 0, 20),
    (_JUMP_BITS, 7, 0, 0x1FFF),  # a later fragment has no ports
    (_LOAD_HEADER_LENGTH, 0, 0, 14),
    (_LOAD_HALF_INDEXED, 0, 0, 14),
    (_JUMP_EQUAL, 1, 0, 67),
    (_JUMP_EQUAL, 0, 3, 4011),
    (_LOAD_BYTE_INDEXED, 0, 0, 22),
    (_JUMP_EQUAL, 0, 1, 2),  # relay agents ask from port 67 too
    (_RETURN, 0, 0, _LONGEST_FRAME),
    (_RETURN, 0, 0, 0),
)
"""UDP over IPv4 from port 67 or 4011, op BOOTREPLY."""

IGMP: tuple[tuple[int, int, int, int], ...] = (
    (_LOAD_HALF, 0, 0, 12),
    (_JUMP_EQUAL, 0, 3, 0x0800),
    (_LOAD_BYTE, 0, 0, 23),
    (_JUMP_EQUAL, 0, 1, 2),
    (_RETURN, 0, 0, _LONGEST_FRAME),
    (_RETURN, 0, 0, 0),
)
"""IPv4, protocol 2."""


MLD: tuple[tuple[int, int, int, int], ...] = (
    (_LOAD_HALF, 0, 0, 12),
    (_JUMP_EQUAL, 0, 5, 0x86DD),
    (_LOAD_BYTE, 0, 0, 20),
    (_JUMP_EQUAL, 0, 3, 0),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_EQUAL, 0, 1, 58),
    (_RETURN, 0, 0, _LONGEST_FRAME),
    (_RETURN, 0, 0, 0),
)
"""IPv6, ICMPv6 behind hop-by-hop options, which messages about groups have (RFC 3810, section 5)."""


class Capture:
    """A context manager. Raises PermissionError without CAP_NET_RAW, OSError when there is no such interface."""

    def __init__(
        self, interface: str, program: tuple[tuple[int, int, int, int], ...], *, promiscuous: bool, own: bool = True
    ) -> None:
        """`promiscuous`: also frames to hardware addresses that are not this machine's. `own`: also what it sends."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
            buffer = ctypes.create_string_buffer(code)
            filter_ = struct.pack("HL", len(program), ctypes.addressof(buffer))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
            if not own:
                self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._socket.bind((interface, _ETH_P_ALL))  # from here on it receives, so nothing passes by the filter
            if promiscuous:
                request = struct.pack("IHH8s", socket.if_nametoindex(interface), _PACKET_MR_PROMISC, 0, b"")
                self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        """A whole Ethernet frame. OSError when it cannot leave."""
        self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()

    def read_waiting(self) -> tuple[bytes, bool] | None:
        """As `read`, without waiting: for an event loop. OSError: the interface went down; the socket lives on."""
        self._socket.setblocking(False)
        try:
            frame, (_name, _protocol, kind, *_) = self._socket.recvfrom(_LONGEST_FRAME)
        except BlockingIOError:
            return None
        return frame, kind == socket.PACKET_OUTGOING

    def read(self, deadline: float) -> tuple[bytes, bool] | None:
        """The next frame, and whether this machine sent it; None once `time.monotonic()` has reached `deadline`."""
        while True:
            self._socket.settimeout(max(0.0001, deadline - time.monotonic()))
            try:
                frame, (_name, _protocol, kind, *_) = self._socket.recvfrom(_LONGEST_FRAME)
            except (TimeoutError, BlockingIOError):
                return None
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                if time.monotonic() >= deadline:
                    return None
                continue
            return frame, kind == socket.PACKET_OUTGOING
