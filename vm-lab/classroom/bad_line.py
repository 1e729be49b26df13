"""A line that loses, damages, doubles and reorders: joins two Ethernet devices of this network namespace, by a seed.

`python -m classroom.bad_line SEED DEVICE DEVICE boot|cast` until it is ended. It says "ready" when it carries. What is
treated badly: `boot`, all IPv4, both ways (ARP goes through); `cast`, long UDP datagrams to groups. The devices must
carry single packets with whole checksums. nft could lose and double, but not reorder, and its chance has no seed.
"""

import contextlib
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HELD_S = 0.002
"""A packet that is to be overtaken arrives after this time at the latest."""
_ETH_P_ALL = 3
_ETH_P_IP = b"\x08\x00"
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_FRAME_BYTES = 65536
_BUFFER_BYTES = 8 << 20
_ETHERNET, _UDP = 14, 17
_CAST_FRAME_BYTES = 500


def is_ipv4(frame: bytes) -> bool:
    return frame[12:14] == _ETH_P_IP


def is_cast(frame: bytes) -> bool:
    """A long UDP datagram to an IPv4 group."""
    return is_ipv4(frame) and frame[0] & 1 == 1 and frame[23] == _UDP and len(frame) > _CAST_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Troubles:
    """Shares of the packets that it befalls, each way."""

    befall: Callable[[bytes], bool]
    lost: float = 0.0
    doubled: float = 0.0
    overtaken: float = 0.0
    overtaken_by: int = 1
    """Packets; no more are held back at a time."""
    damaged: float = 0.0
    """Changed, with a checksum that fits."""


KINDS = {
    "boot": Troubles(is_ipv4, lost=0.005, doubled=0.02, overtaken=0.02),
    "cast": Troubles(is_cast, doubled=0.02, overtaken=0.1, overtaken_by=8, damaged=0.01),
}


def damage(frame: bytes, rng: random.Random) -> bytes:
    """With another 16-bit word in its UDP payload, and the checksum to it (RFC 1624, equation 3)."""
    changed = bytearray(frame)
    udp = _ETHERNET + 4 * (frame[_ETHERNET] & 15)
    at = udp + 8 + 2 * rng.randrange((len(frame) - udp - 8) // 2)
    old = int.from_bytes(frame[at : at + 2], "big")
    new = old ^ rng.randrange(1, 0xFFFF)
    changed[at : at + 2] = new.to_bytes(2, "big")
    checksum = int.from_bytes(frame[udp + 6 : udp + 8], "big")
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[udp + 6 : udp + 8] = ((~total & 0xFFFF) or 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class _Held:
    frame: bytes
    due_s: float
    behind: int
    """Goes on when so many frames have passed in all."""


class BadDirection:
    """What becomes of the frames that go one way."""

    def __init__(self, troubles: Troubles, rng: random.Random) -> None:
        self._troubles = troubles
        self._rng = rng
        self._held: list[_Held] = []
        self._passed = 0

    @property
    def due_s(self) -> float | None:
        """When `release` has something next."""
        return self._held[0].due_s if self._held else None

    def carry(self, frame: bytes, now: float) -> Sequence[bytes]:
        """The frames that go on now that one has come, in order."""
        troubles = self._troubles
        if not troubles.befall(frame):
            return (frame,)
        if troubles.damaged and self._rng.random() < troubles.damaged:
            frame = damage(frame, self._rng)
        chance = self._rng.random()
        if chance < troubles.lost:
            return ()
        copies = 2 if chance < troubles.lost + troubles.doubled else 1
        overtaken = troubles.lost + troubles.doubled <= chance < troubles.lost + troubles.doubled + troubles.overtaken
        if overtaken and len(self._held) < troubles.overtaken_by:
            self._held.append(_Held(frame, now + HELD_S, self._passed + troubles.overtaken_by))
            return ()
        self._passed += 1
        return (*[frame] * copies, *self.release(now))

    def release(self, now: float) -> Sequence[bytes]:
        """The frames that were held back until now."""
        due = [held.frame for held in self._held if held.due_s <= now or held.behind <= self._passed]
        del self._held[: len(due)]
        return due


def splice_commands(port: str, bridge: str) -> list[str]:
    """For the switch's namespace: afterwards a line between `inner` and the port is all that joins it to its bridge."""
    return [
        f"ip link set {port} nomaster",
        "ip link add near type veth peer name inner",
        *(f"ethtool -K {device} tso off gro off tx off" for device in ("near", "inner")),
        f"ethtool -K {port} gro off",
        f"ip link set near master {bridge}",
        "ip link set near up",
        "ip link set inner up",
    ]


def main() -> None:
    rng = random.Random(int(sys.argv[1]))
    sockets = [_open(device) for device in sys.argv[2:4]]
    directions = [BadDirection(KINDS[sys.argv[4]], rng) for _ in sockets]
    print("ready", flush=True)
    while True:
        due = [direction.due_s for direction in directions if direction.due_s is not None]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        readable, _, _ = select.select(sockets, [], [], wait_s)
        now = time.monotonic()
        for number, direction in enumerate(directions):
            there = sockets[1 - number]
            _send(there, direction.release(now))
            if sockets[number] in readable:
                _send(there, direction.carry(sockets[number].recv(_FRAME_BYTES), now))


def _send(sock: socket.socket, frames: Sequence[bytes]) -> None:
    for frame in frames:
        with contextlib.suppress(OSError):  # no room, or the other end is down: lost, as on any line
            sock.send(frame)


def _open(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.bind((device, _ETH_P_ALL))
    return sock


if __name__ == "__main__":
    main()
