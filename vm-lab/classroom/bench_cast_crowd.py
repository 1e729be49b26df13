"""`vm-lab/bench cast` in simulation: rooms that no machine has cores for. The real sender, and receivers as arrays."""

import itertools
from collections.abc import Iterator

from classroom.figures import Figure
from classroom.run import Run
from imager.multicast.crowd import Crowd, CrowdOutcome
from imager.multicast.layout import CastLayout
from imager.wire.session import SYMBOL_BYTES

LOSS = 0.01
BLOCK_BYTES = 200 * SYMBOL_BYTES
BLOCKS, HALL_BLOCKS = 1500, 200
"""432 MB and 58 MB."""
MOST_SENT = {300: 1.06, 2000: 1.08}
MOST_TIME = {8: 1.03, 300: 1.08}
"""Of the time of one."""
_seeds = itertools.count(1)


def bench_crowd(_: Run) -> Iterator[Figure]:
    """What is sent, and the time, by the number of receivers; by another seed in each run."""
    seed = next(_seeds)
    alone_s = _cast(seed, 1, BLOCKS).finished_s
    for receivers, most in MOST_TIME.items():
        outcome = _cast(seed, receivers, BLOCKS)
        name = f"simulated, {receivers} at 1 %"
        told = f"one alone {alone_s:.2f} s"
        yield Figure(f"{name}, time", outcome.finished_s / alone_s, " x", most, is_least=False, peer=told, digits=3)
        if receivers in MOST_SENT:
            yield _sent(name, outcome, BLOCKS, MOST_SENT[receivers])
    yield _sent("simulated, 2000 at 1 %", _cast(seed, 2000, HALL_BLOCKS), HALL_BLOCKS, MOST_SENT[2000])


def _cast(seed: int, receivers: int, blocks: int) -> CrowdOutcome:
    return Crowd(seed, receivers, CastLayout((BLOCK_BYTES,) * blocks), LOSS).run()


def _sent(name: str, outcome: CrowdOutcome, blocks: int, most: float) -> Figure:
    symbols = CastLayout((BLOCK_BYTES,) * blocks).symbol_count
    return Figure(f"{name}, sent", outcome.sent_packets / symbols, " x", most, is_least=False, digits=3)
