"""How a receiver divides the memory that it may take. Pure.

Counted is all that grows with what is received: the ring of chunks, the repair symbols that wait for more, the kernel's
buffer of the data socket, the workers' own, and the two Python processes. The list of chunks comes on top: about 400
bytes a chunk of an image, 120 a chunk of a file.
"""

from dataclasses import dataclass

DEFAULT_BYTES = 256 << 20
SMALLEST_BYTES = 96 << 20
_PROCESSES_BYTES = 64 << 20
"""Interpreters and libraries of the receiving process and of its program: 56 MiB resident, when seen."""
_LARGEST_SOCKET_BYTES = 32 << 20
"""At 600 MB/s the data of 50 ms: so long may the receiving process be kept from the processor."""
_KERNEL_TIMES = 2
"""The kernel allows a socket buffer twice what was asked for: its own records need room too (socket(7), SO_RCVBUF)."""
_REPAIR_SHARE = 0.31
"""Of a block: 56 repair symbols for 200, and what Python needs to keep them."""


@dataclass(frozen=True, slots=True)
class ReceiverMemory:
    """The parts that are set, not just counted."""

    ring_bytes: int
    socket_bytes: int
    """To ask for: SO_RCVBUF."""


def divide_memory(total_bytes: int = DEFAULT_BYTES, workers_bytes: int = 0) -> ReceiverMemory:
    """Divide `total_bytes`, of which the workers that take the chunks need `workers_bytes` for themselves.

    Below SMALLEST_BYTES there is no room for a ring: it is left to its least length.
    """
    socket_bytes = min(_LARGEST_SOCKET_BYTES, max(0, total_bytes) // 8)
    rest = total_bytes - _PROCESSES_BYTES - workers_bytes - _KERNEL_TIMES * socket_bytes
    return ReceiverMemory(max(0, int(rest / (1 + _REPAIR_SHARE))), socket_bytes)
