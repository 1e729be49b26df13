"""`vm-lab/bench cast` on a line that damages, doubles and reorders, beside a stranger who forges and replays."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from classroom.cast_peers import HEADERS, TOOLS, Casting, WrongImages, cast, file_in_memory, limited, of_file
from classroom.cast_room import NEIGHBOUR_ADDRESS, SENDER_ADDRESS, CastRoom
from classroom.figures import Failure, Figure
from classroom.run import Run
from classroom.timed_process import TimedProcess

FILE_BYTES = 48 << 20
RATE = "80m"
"""What a line that is a program can carry."""
SPOILED = 2
"""The receiver behind that line."""
SEED = 4
MOST_SENT, MOST_TIME = 1.10, 2.0
"""Of what the file needs, and of the time without all that."""


def bench_hostile(lab: Run) -> Iterator[Figure | Failure]:
    """The same cast twice: undisturbed, and with everything wrong at once."""
    source = file_in_memory(lab, FILE_BYTES)
    tool = limited(TOOLS["roomcast"], RATE)
    name = "cast, bad line and forgers"
    with CastRoom(lab, "hostile", 2, neighbour=True) as room, ExitStack() as stack:
        quiet = cast(lab, room, tool, source)
        room.spoil(lab, SPOILED, SEED, stack)
        assert room.neighbour is not None
        log = lab.logs / f"{room.neighbour}.log"
        words = [sys.executable, "-m", "classroom.stranger", SENDER_ADDRESS, NEIGHBOUR_ADDRESS]
        stranger = TimedProcess(room.neighbour, words, log, stack)
        done: Casting | None = None
        wrong = 0
        try:
            done = cast(lab, room, tool, source)
        except WrongImages as error:
            wrong = error.count
        stranger.end()
    sent = json.loads(log.read_text())
    told = f"{sent['nacks'] / sent['seconds']:,.0f} NACKs/s, {sent['forged'] + sent['replayed']:,} forged or replayed"
    yield Figure(f"{name}, wrong images", wrong, "", 0, is_least=False, peer=told, each_run=True)
    if done is not None:
        sent_share, times = done.wire_share / HEADERS, done.seconds / quiet.seconds
        yield Figure(f"{name}, sent{of_file(FILE_BYTES)}", sent_share, " x", MOST_SENT, is_least=False, digits=3)
        told = f"{quiet.seconds:.1f} s without them"
        yield Figure(f"{name}, time", times, " x", MOST_TIME, is_least=False, peer=told, digits=2)
