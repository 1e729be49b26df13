"""How fast super-packets can be sent and taken in on this machine when nobody looks at them.

`python -m classroom.blast send BYTES` and `python -m classroom.blast receive`, which prints the payload bits a second
that arrived. The sender does not pace: what it sends faster than they take in is lost, and does not count.
"""

import select
import sys
import time

import numpy as np

from classroom.cast_room import INTERFACE, SENDER_ADDRESS
from imager.multicast.pace import MAX_BURST
from imager.transport.endpoint import GroupReceiver, GroupSender
from imager.transport.interfaces import interface_address
from imager.wire.session import PACKET_BYTES, SYMBOL_BYTES

_GROUP, _PORT = "239.77.9.9", 7799
_QUIET_S = 1.0
"""Nothing came for so long: the blast is over."""
_PATIENCE_S = 60.0


def send(payload_bytes: int) -> None:
    sender = GroupSender(_GROUP, _PORT, SENDER_ADDRESS, 1)
    packets = np.zeros((MAX_BURST, PACKET_BYTES), np.uint8)
    for _ in range(payload_bytes // (MAX_BURST * SYMBOL_BYTES)):
        sender.send(packets)


def receive() -> float:
    """Payload bits a second, from the first packet to the last."""
    receiver = GroupReceiver(_GROUP, _PORT, interface_address(INTERFACE))
    select.select([receiver], [], [], _PATIENCE_S)
    count, began = 0, time.monotonic()
    last = began
    while select.select([receiver], [], [], _QUIET_S)[0]:
        count += len(receiver.receive())
        last = time.monotonic()
    return count * SYMBOL_BYTES * 8 / max(last - began, 1e-9)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(int(sys.argv[2]))
    else:
        print(receive())
