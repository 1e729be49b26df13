"""What the TFTP process and its appliance say to each other: a JSON object a message.

The socket pair keeps messages whole (SOCK_SEQPACKET). JSON, not pickle: the process that strangers talk to must not be
able to make its parent run anything.
"""

import json
import socket
from dataclasses import dataclass
from typing import Any

MAX_MESSAGE_BYTES = 16384
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What the process is told on its command line."""

    interface: str
    address: str
    max_block_bytes: int
    max_transfers: int


def send_message(sock: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send it whole. BlockingIOError when there is no room."""
    data = json.dumps(message).encode()
    if descriptors:
        socket.send_fds(sock, [data], list(descriptors))
    else:
        sock.send(data)


def receive_message(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next one and the descriptors that came with it; None at the end of the connection."""
    data, descriptors, _flags, _ = socket.recv_fds(sock, MAX_MESSAGE_BYTES, 1)
    return (json.loads(data), descriptors) if data else None
