"""A line that loses, doubles and reorders: joins two Ethernet devices of this network namespace, by a seed.

`python -m classroom.bad_line SEED DEVICE DEVICE` until it is ended. Only IPv4 is treated badly: ARP goes through. nft
could lose and double, but not reorder, and its chance has no seed.
"""

import contextlib
import random
import select
import socket
import sys
import time
from collections.abc import Sequence

LOST, DOUBLED, OVERTAKEN = 0.005, 0.02, 0.02
"""Shares of the packets, each way."""
HELD_S = 0.002
"""A packet is overtaken by what comes within this time; it arrives at the end of it at the latest."""
_ETH_P_ALL = 3
_ETH_P_IP = b"\x08\x00"
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_FRAME_BYTES = 65536


class BadDirection:
    """What becomes of the frames that go one way."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._held: bytes | None = None
        self.due_s: float | None = None
        """When the frame that is held back goes on by `release`."""

    def carry(self, frame: bytes, now: float) -> Sequence[bytes]:
        """The frames that go on now, in order."""
        if frame[12:14] != _ETH_P_IP:
            return (frame,)
        chance = self._rng.random()
        if chance < LOST:
            return ()
        if chance < LOST + DOUBLED:
            return (frame, frame, *self.release())
        if chance < LOST + DOUBLED + OVERTAKEN and self._held is None:
            self._held, self.due_s = frame, now + HELD_S
            return ()
        return (frame, *self.release())

    def release(self) -> Sequence[bytes]:
        """The frame that is held back, if one is."""
        held, self._held, self.due_s = self._held, None, None
        return (held,) if held is not None else ()


def main() -> None:
    rng = random.Random(int(sys.argv[1]))
    sockets = [_open(device) for device in sys.argv[2:4]]
    directions = [BadDirection(rng), BadDirection(rng)]
    while True:
        due = [direction.due_s for direction in directions if direction.due_s is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select(sockets, [], [], wait_s)
        now = time.monotonic()
        for number, direction in enumerate(directions):
            there = sockets[1 - number]
            if sockets[number] in readable:
                _send(there, direction.carry(sockets[number].recv(_FRAME_BYTES), now))
            if direction.due_s is not None and direction.due_s <= now:
                _send(there, direction.release())


def _send(sock: socket.socket, frames: Sequence[bytes]) -> None:
    for frame in frames:
        with contextlib.suppress(OSError):  # no room, or the other end is down: lost, as on any line
            sock.send(frame)


def _open(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.bind((device, _ETH_P_ALL))
    return sock


if __name__ == "__main__":
    main()
