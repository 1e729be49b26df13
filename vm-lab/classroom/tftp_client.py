"""A TFTP client that costs less than its server: fetches a file by windows (RFC 7440), a window by few calls (UDP GRO).

`python -m classroom.tftp_client SERVER SOURCE NAME BLOCK_BYTES WINDOW TARGET` prints "took SECONDS": from the request
to the last ACK. What it needs for itself before and after is not counted.
"""

import contextlib
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from netboot.errors import WireError
from netboot.wire.tftp import DATA_HEADER_BYTES, Error, OptionAck, build_ack, parse_tftp

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

PORT = 69
_UDP_GRO = 104
_LARGEST_CALL_BYTES = 65536
"""What the kernel joins at most."""
_RECEIVE_BUFFER_BYTES = 4 << 20
_SILENCE_S = 1
_TRIES = 5
_DATA, _ERROR = b"\0\3", b"\0\5"


class WindowedFile:
    """The file of one transfer as its packets come in; tells what to acknowledge. Pure."""

    def __init__(self, size: int, block_bytes: int, window: int) -> None:
        self._size = size
        self._window = window
        self.packet_bytes = DATA_HEADER_BYTES + block_bytes
        self._blocks = size // block_bytes + 1
        """The last is not full: it may be empty."""
        self._content = np.zeros((self._blocks, block_bytes), np.uint8)
        headers = np.empty((self._blocks, 2), ">u2")
        headers[:, 0] = 3
        headers[:, 1] = np.arange(1, self._blocks + 1) % 65536
        self._headers: Bytes = headers.view(np.uint8)
        self._received = self._acknowledged = 0
        self._has_told_gap = False

    @property
    def is_whole(self) -> bool:
        return self._received == self._blocks

    @property
    def awaited_bytes(self) -> int:
        """What is still to come of the window, when its packets are all full: at least as much as is missing."""
        left = min(self._window - (self._received - self._acknowledged), self._blocks - self._received)
        return left * self.packet_bytes

    def content(self) -> bytes:
        return self._content.reshape(-1)[: self._size].tobytes()

    def acknowledgement(self) -> bytes:
        """Of all that came without a gap: the next window begins after it."""
        self._acknowledged = self._received
        return build_ack(self._received % 65536)

    def take(self, packets: Bytes) -> bytes | None:
        """Datagrams one after the other, all full but the last: an ACK when it is time for one.

        ValueError when the server sent an error. A gap is told once (RFC 7440, section 4), what came after it dropped.
        """
        full = len(packets) // self.packet_bytes
        rows = packets[: full * self.packet_bytes].reshape(full, self.packet_bytes)
        at = self._received
        has_gap = False
        if np.array_equal(rows[:, :DATA_HEADER_BYTES], self._headers[at : min(at + full, self._blocks - 1)]):
            self._content[at : at + full] = rows[:, DATA_HEADER_BYTES:]
            self._received += full
        else:
            for row in rows:
                has_gap |= self._take_one(row)
        if len(rest := packets[full * self.packet_bytes :]):
            has_gap |= self._take_one(rest)
        if self._received > at:
            self._has_told_gap = False
        if has_gap and not self._has_told_gap:
            self._has_told_gap = True
            return self.acknowledgement()
        if self._received > at and (self.is_whole or self._received - self._acknowledged >= self._window):
            return self.acknowledgement()
        return None

    def _take_one(self, packet: Bytes) -> bool:
        """Whether it is of this window, and one before it did not come."""
        header = packet[:DATA_HEADER_BYTES].tobytes()
        if header[:2] == _ERROR:
            raise ValueError(f"the server sent an error: {packet[DATA_HEADER_BYTES:].tobytes()!r}")
        if header[:2] != _DATA or self.is_whole:
            return False
        ahead = (int.from_bytes(header[2:], "big") - self._received) % 65536
        is_last = self._received + 1 == self._blocks
        expected = self._size % self._content.shape[1] if is_last else self._content.shape[1]
        if ahead == 1 and len(packet) == DATA_HEADER_BYTES + expected:
            self._content[self._received, :expected] = packet[DATA_HEADER_BYTES:]
            self._received += 1
            return False
        return 1 < ahead <= self._window


def fetch(server: str, source: str, name: str, block_bytes: int, window: int) -> tuple[bytes, float]:
    """The file, and the seconds it took. ValueError, WireError, TimeoutError: what the server did instead."""
    view = memoryview(bytearray(window * (DATA_HEADER_BYTES + block_bytes) + _LARGEST_CALL_BYTES))
    memory = np.frombuffer(view, np.uint8)
    words = [name, "octet", "blksize", block_bytes, "tsize", 0, "windowsize", window]
    request = b"\0\1" + b"".join(f"{word}\0".encode() for word in words)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        # Not settimeout, which costs a call of poll before each other call.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _SILENCE_S, 0))
        began = time.monotonic()
        file = _open(sock, server, request, block_bytes, window)
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        sock.send(file.acknowledgement())
        told_s, tries = time.monotonic(), 0
        while not file.is_whole:
            filled, wanted = 0, file.awaited_bytes
            with contextlib.suppress(BlockingIOError):  # silence
                while filled < wanted and filled % file.packet_bytes == 0:
                    filled += sock.recv_into(view[filled:])
            answer, now = file.take(memory[:filled]), time.monotonic()
            if answer is not None:
                tries = 0
            elif now - told_s >= _SILENCE_S:  # the ACK was lost, or all that it asked for
                answer, tries = file.acknowledgement(), tries + 1
                if tries > _TRIES:
                    raise TimeoutError("the server sends nothing new")
            if answer is not None:
                sock.send(answer)
                told_s = now
        seconds = time.monotonic() - began
    return file.content(), seconds


def _open(sock: socket.socket, server: str, request: bytes, block_bytes: int, window: int) -> WindowedFile:
    """Ask until the server agrees to all that was asked for; the socket is connected to it then."""
    for _ in range(_TRIES):
        sock.sendto(request, (server, PORT))
        try:
            data, peer = sock.recvfrom(_LARGEST_CALL_BYTES)
        except BlockingIOError:
            continue
        answer = parse_tftp(data)
        if isinstance(answer, Error):
            raise ValueError(f"the server refused it: {answer.message}")
        if not isinstance(answer, OptionAck):
            raise ValueError("the server knows no options")
        agreed = {key: int(value) for key, value in answer.options.items()}
        if agreed.get("blksize") != block_bytes or agreed.get("windowsize") != window or "tsize" not in agreed:
            raise ValueError(f"the server agreed to {agreed}")
        sock.connect(peer)
        return WindowedFile(agreed["tsize"], block_bytes, window)
    raise TimeoutError("the server does not answer")


def main() -> int:
    server, source, name, block_bytes, window, target = sys.argv[1:7]
    try:
        content, seconds = fetch(server, source, name, int(block_bytes), int(window))
    except (OSError, ValueError, WireError) as error:
        print(f"tftp_client: {error}")
        return 1
    Path(target).write_bytes(content)
    print(f"took {seconds:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
