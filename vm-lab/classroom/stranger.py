"""Somebody on a network who forges and replays what belongs to a file cast that he hears announced.

`python -m classroom.stranger SENDER OWN` (addresses) until SIGTERM; then it tells as JSON how much it sent of each.
"""

import contextlib
import json
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass

import numpy as np

from imager.transport.discovery import DEFAULT_PORT
from imager.transport.endpoint import GroupReceiver, GroupSender
from imager.wire.announce import Announce, parse_announce
from imager.wire.groups import DISCOVERY_GROUP
from imager.wire.packets import DATA_HEADER, Head, build_head, first_byte_pair
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, Kind

NACKS_A_SECOND = 10_000
_AT_ONCE_S = 0.005
_AGAIN_S = 0.02
_REPLAYED, _FORGED = 40, 20
"""Packets each time."""


@dataclass(slots=True)
class Sent:
    nacks: int = 0
    replayed: int = 0
    forged: int = 0
    seconds: float = 0.0


def hear_announcement(own: str) -> Announce:
    """What a sender of this network says of itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((DISCOVERY_GROUP, DEFAULT_PORT))
        member = socket.inet_aton(DISCOVERY_GROUP) + socket.inet_aton(own)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        return parse_announce(sock.recv(2048))


def forge_nacks(sender: str, announce: Announce, ended: threading.Event, sent: Sent) -> None:
    """NACKs of receivers that are there, from counters that they have not reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((sender, announce.control_port))
        began = time.monotonic()
        while not ended.wait(_AT_ONCE_S):
            due = int((time.monotonic() - began) * NACKS_A_SECOND)
            for number in range(sent.nacks, due):
                head = build_head(Head(Kind.NACK, 1 + number % 3, announce.session, 2**40 + number))
                with contextlib.suppress(OSError):
                    sock.send(head + bytes(200))
            sent.nacks = due


def forge_and_replay(own: str, announce: Announce, ended: threading.Event, sent: Sent) -> None:
    """What was heard, again and again; and packets of its own that claim what comes next."""
    with (
        contextlib.closing(GroupReceiver(announce.group, announce.data_port, own)) as heard_from,
        contextlib.closing(GroupSender(announce.group, announce.data_port, own, 1)) as send_to,
    ):
        forged = np.zeros((_FORGED, PACKET_BYTES), np.uint8)
        headers = forged[:, :HEADER_BYTES].view(DATA_HEADER)[:, 0]
        headers["magic"], headers["kind"] = first_byte_pair(Kind.SOURCE)
        headers["session"] = announce.session
        while not ended.wait(_AGAIN_S):
            heard = heard_from.receive().copy()
            if not len(heard):
                continue
            last = heard[-1:, :HEADER_BYTES].copy().view(DATA_HEADER)[0, 0]
            headers["number"] = int(last["number"]) + np.arange(_FORGED)
            headers["sequence"] = int(last["sequence"]) + np.arange(_FORGED)
            for batch in (heard[:_REPLAYED], forged):
                send_to.send(np.ascontiguousarray(batch))
            sent.replayed += len(heard[:_REPLAYED])
            sent.forged += len(forged)


def main() -> None:
    sender, own = sys.argv[1:]
    ended, sent = threading.Event(), Sent()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    announce = hear_announcement(own)
    began = time.monotonic()
    threads = [
        threading.Thread(target=forge_nacks, args=(sender, announce, ended, sent)),
        threading.Thread(target=forge_and_replay, args=(own, announce, ended, sent)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent.seconds = time.monotonic() - began
    print(json.dumps(asdict(sent)))


if __name__ == "__main__":
    main()
