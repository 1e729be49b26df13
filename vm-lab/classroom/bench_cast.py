"""`vm-lab/bench cast`: one file to a room, beside udpcast and UFTP, in one run; one line a figure.

All share the cores of one machine, so goals are ratios to a peer's figure, or to what the machine can do at all.
"""

import functools
import sys
from collections.abc import Iterator, Mapping

from classroom.bench import Bench, failure, run_benches
from classroom.bench_cast_crowd import bench_crowd
from classroom.bench_cast_hostile import bench_hostile
from classroom.bench_cast_late import bench_late, bench_unreached
from classroom.bench_cast_lines import bench_line, bench_narrow, bench_tcp
from classroom.bench_cast_returns import bench_memory, bench_returns
from classroom.bench_cast_slow import bench_slow
from classroom.cast_peers import HEADERS, TOOLS, TRIES, Casting, cast, cast_peer, file_in_memory, limit_bps, of_file
from classroom.cast_record import CastRecord
from classroom.cast_room import CastRoom
from classroom.errors import LabError
from classroom.figures import Failure, Figure
from classroom.run import Run

LOSSES = (0.0, 0.1, 1.0, 5.0)
"""Percent, of each receiver's packets by themselves."""
ROOMS = {1: 1 << 30, 4: 256 << 20, 8: 256 << 20}
"""File bytes by receivers."""
OF_UDPCAST, OF_UFTP, OF_BETTER = 4.0, 3.0, 2.5
"""Our goodput, times theirs: with one receiver and no loss; of the better of both otherwise."""
OF_LIMIT = 0.8
LEAST_PEER_S, PEER_TIMES = 60.0, 6.0
"""What a peer gets for its cast: so long at least, or so many times ours."""
WIRE_ABOVE_HEADERS = {(1, 0.0): 1.005, (4, 0.0): 1.005, (8, 0.0): 1.005, (8, 1.0): 1.03, (8, 5.0): 1.10}


def bench_goodput(record: CastRecord, lab: Run) -> Iterator[Figure | Failure]:
    """Rooms of 1, 4 and 8, clean and with loss. All that was measured goes to `record`."""
    for receivers, file_bytes in ROOMS.items():
        source = file_in_memory(lab, file_bytes)
        with CastRoom(lab, f"room{receivers}", receivers) as room:
            for loss in LOSSES:
                room.set_loss(loss)
                what = f"cast to {receivers}, {loss:g} % loss{of_file(file_bytes)}"
                try:
                    ours = cast(lab, room, TOOLS["roomcast"], source)
                except LabError as error:
                    yield failure(what, error)
                    continue
                within_s = max(LEAST_PEER_S, PEER_TIMES * ours.seconds)
                peers = {name: cast_peer(lab, room, TOOLS[name], source, within_s) for name in ("udpcast", "UFTP")}
                for name, casting in {"roomcast": ours, **peers}.items():
                    if casting is not None:
                        record.add(name, receivers, loss, casting)
                yield from _beside_peers(what, ours, peers, apart=receivers == 1 and not loss)
                most = WIRE_ABOVE_HEADERS.get((receivers, loss))
                if most is not None:
                    yield _wire(what, ours, peers, most)
                if receivers == 1 and not loss:
                    limit = limit_bps(lab, room, 4 * file_bytes)
                    record.limits_bps.append(limit)
                    yield _rate(f"{what}, of the limit", ours, OF_LIMIT, limit, "the machine's")


def _beside_peers(
    what: str, ours: Casting, peers: Mapping[str, Casting | None], *, apart: bool
) -> Iterator[Figure | Failure]:
    """Of each peer apart, or of the better of both. A peer that never came to its end is said so."""
    done = {name: casting.goodput_bps for name, casting in peers.items() if casting is not None}
    hung = "".join(f"; {name} did not finish, {TRIES} of {TRIES}" for name in peers if name not in done)
    if apart:
        for name, times in (("udpcast", OF_UDPCAST), ("UFTP", OF_UFTP)):
            yield _rate(f"{what}, of {name}", ours, times, done.get(name, 0.0), f"{name}'s", hung)
    else:
        better = max(done, key=lambda name: done[name], default="nobody")
        yield _rate(what, ours, OF_BETTER, done.get(better, 0.0), f"{better}'s", hung)


def _wire(what: str, ours: Casting, peers: Mapping[str, Casting | None], most: float) -> Figure:
    told = ", ".join(f"{name} {casting.wire_share:.3f}" for name, casting in peers.items() if casting is not None)
    return Figure(f"{what}, wire", ours.wire_share, "", most * HEADERS, is_least=False, peer=told, digits=3)


def _rate(name: str, ours: Casting, times: float, peer_bps: float, whose: str, more: str = "") -> Figure:
    told = f"{times:g} x {whose} {peer_bps / 1e6:.0f}{more}"
    return Figure(name, ours.goodput_bps / 1e6, " Mbit/s", times * peer_bps / 1e6, is_least=True, peer=told)


def main() -> int:
    record = CastRecord()
    benches: dict[str, Bench] = {
        "goodput": functools.partial(bench_goodput, record),
        "line": bench_line,
        "narrow": bench_narrow,
        "tcp": bench_tcp,
        "slow": bench_slow,
        "late": bench_late,
        "unreached": bench_unreached,
        "hostile": bench_hostile,
        "returns": bench_returns,
        "memory": bench_memory,
        "crowd": bench_crowd,
    }
    return run_benches("vm-lab/bench cast", __doc__ or "", benches, record)


if __name__ == "__main__":
    sys.exit(main())
