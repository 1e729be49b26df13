"""A cable that damages, doubles and delays: `python bad_line.py FROM TO SEED`, between two interfaces of its namespace.

Of the UDP datagrams to groups that go from FROM to TO, one in a hundred has bytes changed and a checksum that fits, one
in fifty comes twice, one in ten comes later than those behind it. Everything else passes as it is, both ways. The
interfaces must carry whole checksums and single packets.
"""

import random
import select
import socket
import sys
import time

_ETH_P_ALL = 0x0003
_OUTGOING = 4
"""linux/if_packet.h: a frame that this host sent."""
_ETHERNET, _UDP = 14, 17
DAMAGED, TWICE, LATE = 0.01, 0.02, 0.1
_LATE_S = 0.002


def damage(frame: bytearray, chance: random.Random) -> None:
    """Change a 16-bit word of the UDP payload, and the checksum with it (RFC 1624, equation 3)."""
    udp = _ETHERNET + 4 * (frame[_ETHERNET] & 15)
    words = (len(frame) - udp - 8) // 2
    at = udp + 8 + 2 * chance.randrange(words)
    old = int.from_bytes(frame[at : at + 2], "big")
    new = old ^ chance.randrange(1, 0xFFFF)
    frame[at : at + 2] = new.to_bytes(2, "big")
    checksum = int.from_bytes(frame[udp + 6 : udp + 8], "big")
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    frame[udp + 6 : udp + 8] = ((~total & 0xFFFF) or 0xFFFF).to_bytes(2, "big")


def is_cast(frame: bytes) -> bool:
    """A long UDP datagram to an IPv4 group."""
    return frame[12:14] == b"\x08\x00" and frame[0] & 1 == 1 and frame[23] == _UDP and len(frame) > 500


def main() -> None:
    chance = random.Random(int(sys.argv[3]))
    sockets = []
    for name in sys.argv[1:3]:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((name, 0))
        sockets.append(sock)
    near, far = sockets
    late: list[tuple[float, bytes]] = []
    print("ready", flush=True)
    while True:
        wait_s = max(0.0, late[0][0] - time.monotonic()) if late else None
        readable, _, _ = select.select(sockets, [], [], wait_s)
        while late and late[0][0] <= time.monotonic():
            far.send(late.pop(0)[1])
        for sock in readable:
            data, address = sock.recvfrom(65536)
            if address[2] == _OUTGOING:
                continue
            if sock is far or not is_cast(data):
                (near if sock is far else far).send(data)
                continue
            frame = bytearray(data)
            if chance.random() < DAMAGED:
                damage(frame, chance)
            if chance.random() < LATE:
                late.append((time.monotonic() + _LATE_S, bytes(frame)))
            else:
                far.send(frame)
            if chance.random() < TWICE:
                late.append((time.monotonic() + _LATE_S, bytes(frame)))


if __name__ == "__main__":
    main()
