"""Scenarios to simulate: anything that may go wrong, drawn from a seed, and named ones to compare figures of. Pure."""

import random
from collections.abc import Callable

from imager.multicast.network import Narrow, Pauses
from imager.multicast.simulation import Scenario
from imager.wire.session import SlowPolicy

_LENGTHS = (1, 1_000, 1_440, 1_441, 40_000, 288_000, 300_001, 600_000)
BLOCK = 288_000
"""A chunk of one block of 200 symbols."""


def random_scenario(seed: int) -> Scenario:
    """A small cast with about one kind of trouble for each receiver, and some for all."""
    chance = random.Random(seed)
    receivers = chance.choice([1, 2, 3, 4, 6, 12])
    numbers = range(receivers)
    chunks = chance.randint(1, 12)

    def some(share: float) -> list[int]:
        return [number for number in numbers if chance.random() < share]

    late = some(0.15)
    crashing = [number for number in some(0.1) if number not in late]
    begin = chance.uniform(0.02, 0.2)
    return Scenario(
        seed=seed,
        receivers=receivers,
        stored_lengths=tuple(chance.choice(_LENGTHS) for _ in range(chunks)),
        loss=chance.choice([0, 0, 0.001, 0.01, 0.05, 0.2]),
        outage_every_s=chance.choice([0, 0, 0, 0.5]),
        outage_s=(0.1, chance.choice([0.1, 0.5, 1.9])),
        duplicate=chance.choice([0, 0.02]),
        reorder=chance.choice([0, 0, 0.1]),
        delay_s=chance.choice([0.0001, 0.001, 0.01]),
        line_bps=chance.choice([1e8, 1e9, 1e10]),
        trunk=Narrow(chance.choice([5e7, 2e8]), chance.choice([16, 64]) << 10) if chance.random() < 0.1 else None,
        ports={number: _narrow(chance) for number in some(0.1)},
        processors={
            number: Narrow(chance.choice([3e7, 3e8]), chance.choice([208, 16384]) << 10) for number in some(0.1)
        },
        max_bitrate_bps=chance.choice([0, 0, 5e7]),
        slots=chance.choice([4, 16, 64]),
        disk_s=chance.choice([0, 0.005]),
        disk_bps={number: chance.choice([4e7, 4e8]) for number in some(0.1)},
        wrong_chunks=chance.choice([0, 0, 0.1]),
        joins_at={number: chance.uniform(0.005, 0.3) for number in late if number},
        vanishes_at={number: chance.uniform(0.0, 0.1) for number in some(0.1) if number},
        away={number: (0.03, chance.uniform(0.05, 1.0)) for number in some(0.1) if number},
        partition=(begin, begin + chance.uniform(0.1, 1.0)) if chance.random() < 0.1 else None,
        crashes={number: (begin, begin + chance.uniform(0.05, 1.5)) for number in crashing},
        sender_crash=(begin, begin + chance.uniform(0.05, 1.5)) if chance.random() < 0.1 else None,
        wanted={number: tuple(sorted(chance.sample(range(chunks), chance.randint(1, chunks)))) for number in some(0.3)},
    )


def _narrow(chance: random.Random) -> Narrow:
    slower = chance.choice([2e7, 1e8])
    changes = ((0.1, slower), (0.4, slower * 4)) if chance.random() < 0.3 else ()
    return Narrow(slower * 2, chance.choice([16, 32, 64, 128]) << 10, changes)


def busy_machines(seed: int, machines: int, chunks: int = 300) -> Scenario:
    """All equal, and each without a turn of its processor for 50 to 400 ms about every 0.6 s, as emulated ones are."""
    processor = Narrow(1e8, 6 << 20, pauses=Pauses(0.5))
    places = dict.fromkeys(range(machines), processor)
    return Scenario(seed, machines, (BLOCK,) * chunks, processors=places, slow=SlowPolicy.DEMOTE, silence_timeout_s=60)


NAMED: dict[str, Callable[[int], Scenario]] = {
    "clean": lambda seed: Scenario(seed, 8, (BLOCK,) * 200),
    "loss": lambda seed: Scenario(seed, 8, (BLOCK,) * 200, loss=0.01),
    "heavy-loss": lambda seed: Scenario(seed, 8, (BLOCK,) * 200, loss=0.05),
    "outages": lambda seed: Scenario(seed, 8, (BLOCK,) * 400, outage_every_s=2, line_bps=2e8),
    "trunk-16-KiB": lambda seed: Scenario(seed, 2, (BLOCK,) * 400, trunk=Narrow(2e8, 16 << 10), line_bps=1e9),
    "trunk-128-KiB": lambda seed: Scenario(seed, 2, (BLOCK,) * 400, trunk=Narrow(2e8, 128 << 10), line_bps=1e9),
    "slow-processor": lambda seed: Scenario(seed, 2, (BLOCK,) * 400, processors={1: Narrow(3e8, 4 << 20)}),
    "busy-machines": lambda seed: busy_machines(seed, 4),
    "slow-disk": lambda seed: Scenario(seed, 2, (BLOCK,) * 400, disk_bps={1: 2e8}),
    "crash": lambda seed: Scenario(seed, 4, (BLOCK,) * 200, loss=0.01, crashes={1: (0.2, 1.0)}),
    "sender-crash": lambda seed: Scenario(seed, 4, (BLOCK,) * 200, loss=0.01, sender_crash=(0.2, 1.0)),
    "partition": lambda seed: Scenario(seed, 4, (BLOCK,) * 200, loss=0.01, partition=(0.2, 1.2)),
}
"""Of a line of 1 Gbit/s and 58 MB where nothing else is said."""
