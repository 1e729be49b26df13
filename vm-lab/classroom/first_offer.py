"""Asks for an address before the server is there, each time as a new machine: how long did the first offer take?

Run in the client's namespace: `python -m classroom.first_offer CLIENT SERVER`; one number, milliseconds.
"""

import random
import socket
import sys
import time
from ipaddress import IPv4Address

from netboot.errors import WireError
from netboot.wire.dhcp import BOOTREQUEST, DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import MESSAGE_TYPE, MessageType

PORT = 67
EVERY_S = 0.005
AT_MOST_S = 90.0
_MAX_BYTES = 2000


def main(client: str, server: str) -> float:
    """Milliseconds from the DISCOVER that was answered first to its offer."""
    rng = random.Random(2131)
    asked: dict[int, float] = {}
    deadline = time.monotonic() + AT_MOST_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((client, PORT))
        sock.settimeout(EVERY_S)
        while time.monotonic() < deadline:
            xid = rng.getrandbits(32)
            asked[xid] = time.monotonic()
            sock.sendto(_discover(xid, rng.randbytes(4), IPv4Address(client)), (server, PORT))
            try:
                offer = parse_dhcp(sock.recv(_MAX_BYTES))
            except (TimeoutError, WireError):
                continue
            if offer.message_type is MessageType.OFFER and offer.xid in asked:
                return (time.monotonic() - asked[offer.xid]) * 1000
    raise SystemExit(f"no offer within {AT_MOST_S:.0f} s")


def _discover(xid: int, number: bytes, relay: IPv4Address) -> bytes:
    options = Options({MESSAGE_TYPE.code: bytes((MessageType.DISCOVER,))})
    return build_dhcp(
        DhcpPacket(op=BOOTREQUEST, xid=xid, chaddr=b"\2\0" + number, giaddr=relay, options=options), _MAX_BYTES
    )


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:3]):.1f}")
