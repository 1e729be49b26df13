"""`vm-lab/bench cast` to who comes late, and to who is not reached: what the one causes, how soon the other is told."""

import time
from collections.abc import Iterator

from classroom.bench import failure
from classroom.cast_peers import file_in_memory, of_file
from classroom.cast_room import SENDER_ADDRESS, CastRoom
from classroom.errors import LabError
from classroom.figures import Failure, Figure
from classroom.file_cast import FileCast, events, until
from classroom.run import Run
from imager.wire.session import PACKET_BYTES, SYMBOL_BYTES

FILE_BYTES = 256 << 20
RATE = "200m"
STARTED_AT = 0.45
"""Of the file: a program takes its time until it has joined."""
MOST_BEYOND_PERCENT = 2.0
UNREACHED_FILE_BYTES = 16 << 20
GROUP = "239.77.9.9"
SMALL_MTU = 1400
SAID_WITHIN_S = 20.0
_PATIENCE_S = 120.0


def bench_late(lab: Run) -> Iterator[Figure]:
    """A receiver that joins at half the file: what it makes the sender send, beside what of it was sent before."""
    source = file_in_memory(lab, FILE_BYTES)
    with CastRoom(lab, "late", 2) as room, FileCast(lab, room, source) as casting:
        first = casting.receive(1)
        before = room.sent_bytes()
        sender = casting.send("--max-bitrate", RATE)
        until(lambda: room.sent_bytes() - before > STARTED_AT * FILE_BYTES, _PATIENCE_S, "half of a cast")
        late = casting.receive(2)
        for process in (first, late, sender):
            process.wait(_PATIENCE_S)
        casting.check()
    (sent,), (received,) = events(sender, "sent"), events(late, "received")
    needed = FILE_BYTES * PACKET_BYTES / SYMBOL_BYTES
    missed = sent["sent_bytes"] - received["received_bytes"]
    if missed <= 0:
        raise LabError("the late receiver missed nothing: it was not late")
    beyond_percent = 100 * ((sent["sent_bytes"] - needed) / missed - 1)
    name = f"cast, joined late, caused too much{of_file(FILE_BYTES)}"
    told = f"joined at {100 * missed / needed:.0f} %"
    yield Figure(name, beyond_percent, " %", MOST_BEYOND_PERCENT, is_least=False, peer=told, digits=2)


def bench_unreached(lab: Run) -> Iterator[Figure | Failure]:
    """Receivers whom the group, or its long packets, do not reach; and a network that carries no multicast."""
    source = file_in_memory(lab, UNREACHED_FILE_BYTES)
    with CastRoom(lab, "unreached", 3) as room:
        room.filter_group(room.ports[0], GROUP)
        room.set_mtu(room.ports[1], SMALL_MTU)
        name = "cast, filtered group and small MTU, said after"
        try:
            yield _said(name, _told_after_s(lab, room, FileCast(lab, room, source), unreached=(1, 2)))
        except LabError as error:
            yield failure(name, error)
    with CastRoom(lab, "dark", 2) as room:
        room.carry_no_multicast()
        yield _said("cast without multicast, said after", _told_after_s(lab, room, FileCast(lab, room, source), (1, 2)))


def _said(name: str, after_s: float) -> Figure:
    return Figure(name, after_s, " s", SAID_WITHIN_S, is_least=False, digits=1, each_run=True)


def _told_after_s(lab: Run, room: CastRoom, file_cast: FileCast, unreached: tuple[int, ...]) -> float:
    """From the sender's start until the last of them was told. Raises LabError when one is not, or not served."""
    with file_cast as casting:
        numbers = range(1, len(room.receivers) + 1)
        receivers = {number: casting.receive(number, "--sender", SENDER_ADDRESS) for number in numbers}
        began = time.monotonic()
        sender = casting.send("--data-address", GROUP, "--min-receivers", str(len(receivers)))
        until(
            lambda: all(events(receivers[number], "unicast") for number in unreached),
            _PATIENCE_S,
            "receivers that no multicast reaches are told so",
        )
        after_s = time.monotonic() - began
        for process in (*receivers.values(), sender):
            process.wait(_PATIENCE_S)
        casting.check()
        for number, receiver in receivers.items():
            (received,) = events(receiver, "received")
            if bool(received["unicast"]) != (number in unreached):
                raise LabError(f"receiver {number} got its file the other way: {received['unicast'] or 'cast'}")
    return after_s
