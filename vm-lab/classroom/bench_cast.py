"""`vm-lab/bench cast`: one file to a room, beside udpcast and UFTP, in one run; one line a figure.

All share the cores of one machine, so goals are ratios to a peer's figure, or to what the machine can do at all.
"""

import functools
import sys
from collections.abc import Iterator

from classroom.bench import Bench, run_benches
from classroom.bench_cast_lines import bench_line, bench_narrow, bench_tcp
from classroom.bench_cast_slow import bench_slow
from classroom.cast_peers import HEADERS, TOOLS, Casting, cast, file_in_memory, limit_bps
from classroom.cast_record import CastRecord
from classroom.cast_room import CastRoom
from classroom.figures import Figure
from classroom.run import Run

LOSSES = (0.0, 0.1, 1.0, 5.0)
"""Percent, of each receiver's packets by themselves."""
ROOMS = {1: 1 << 30, 4: 512 << 20, 8: 512 << 20}
"""File bytes by receivers."""
OF_UDPCAST, OF_UFTP, OF_BETTER = 4.0, 3.0, 2.5
"""Our goodput, times theirs: with one receiver and no loss; of the better of both otherwise."""
OF_LIMIT = 0.8
WIRE_ABOVE_HEADERS = {(1, 0.0): 1.005, (4, 0.0): 1.005, (8, 0.0): 1.005, (8, 1.0): 1.03, (8, 5.0): 1.10}


def bench_goodput(record: CastRecord, lab: Run) -> Iterator[Figure]:
    """Rooms of 1, 4 and 8, clean and with loss. All that was measured goes to `record`."""
    for receivers, file_bytes in ROOMS.items():
        source = file_in_memory(lab, file_bytes)
        with CastRoom(lab, f"room{receivers}", receivers) as room:
            for loss in LOSSES:
                room.set_loss(loss)
                done = {name: cast(lab, room, tool, source) for name, tool in TOOLS.items()}
                for name, casting in done.items():
                    record.add(name, receivers, loss, casting)
                yield from _beside_peers(receivers, loss, done)
                if receivers == 1 and not loss:
                    limit = limit_bps(lab, room, 4 * file_bytes)
                    record.limits_bps.append(limit)
                    yield _rate("cast 1 receiver, of the limit", done["roomcast"], OF_LIMIT, limit, "the machine's")


def _beside_peers(receivers: int, loss: float, done: dict[str, Casting]) -> Iterator[Figure]:
    ours = done["roomcast"]
    what = f"cast {receivers} receiver{'s' * (receivers > 1)}, {loss:g} % loss"
    peers = {name: done[name].goodput_bps for name in ("udpcast", "UFTP")}
    if receivers == 1 and not loss:
        yield _rate(f"{what}, of udpcast", ours, OF_UDPCAST, peers["udpcast"], "udpcast's")
        yield _rate(f"{what}, of UFTP", ours, OF_UFTP, peers["UFTP"], "UFTP's")
    else:
        better = max(peers, key=lambda name: peers[name])
        yield _rate(what, ours, OF_BETTER, peers[better], f"{better}'s")
    most = WIRE_ABOVE_HEADERS.get((receivers, loss))
    if most is not None:
        told = ", ".join(f"{name} {done[name].wire_share:.3f}" for name in peers)
        yield Figure(f"{what}, wire", ours.wire_share, "", most * HEADERS, is_least=False, peer=told, digits=3)


def _rate(name: str, ours: Casting, times: float, peer_bps: float, whose: str) -> Figure:
    told = f"{times:g} x {whose} {peer_bps / 1e6:.0f}"
    return Figure(name, ours.goodput_bps / 1e6, " Mbit/s", times * peer_bps / 1e6, is_least=True, peer=told)


def main() -> int:
    record = CastRecord()
    benches: dict[str, Bench] = {
        "goodput": functools.partial(bench_goodput, record),
        "line": bench_line,
        "narrow": bench_narrow,
        "tcp": bench_tcp,
        "slow": bench_slow,
    }
    return run_benches("vm-lab/bench cast", __doc__ or "", benches, record)


if __name__ == "__main__":
    sys.exit(main())
