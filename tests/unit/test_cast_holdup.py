"""What holds a receiver up, and how it divides its memory."""

import random

import pytest

from imager.multicast.erasure import MAX_BLOCK_SYMBOLS, REPAIR_ROWS
from imager.multicast.holdup import Effort, Stage
from imager.multicast.memory import DEFAULT_BYTES, SMALLEST_BYTES, divide_memory
from imager.wire.session import Holdup

MIB = 1 << 20


def an_effort(*stays: tuple[Stage, float, float]) -> Effort:
    """Of one worker: stages, seconds in them, and seconds of the processor that they took."""
    effort, now, cpu = Effort(1, 0.0), 0.0, 0.0
    for stage, seconds, used in stays:
        effort.enter(0, stage, now, cpu)
        now, cpu = now + seconds, cpu + used
    effort.enter(0, Stage.WAITING, now, cpu)
    return effort


@pytest.mark.parametrize(
    ("stays", "holdup"),
    [
        ([(Stage.COMPUTING, 0.1, 0.1), (Stage.STORING, 0.3, 0.0)], Holdup.DISK),
        ([(Stage.COMPUTING, 0.3, 0.3), (Stage.STORING, 0.1, 0.0)], Holdup.PROCESSOR),
        ([(Stage.COMPUTING, 0.2, 0.01), (Stage.STORING, 0.1, 0.0)], Holdup.PROCESSOR),  # others have the processor
        ([(Stage.COMPUTING, 0.1, 0.1), (Stage.STORING, 0.3, 0.25)], Holdup.PROCESSOR),  # a disk in memory: copying
        ([(Stage.COMPUTING, 0.1, 0.1), (Stage.STORING, 0.3, 0.0), (Stage.WAITING, 0.5, 0.0)], Holdup.NONE),
        ([], Holdup.NONE),
    ],
)
def test_what_took_most_of_the_time_is_what_holds_up(stays: list[tuple[Stage, float, float]], holdup: Holdup) -> None:
    assert an_effort(*stays).holdup(sum(seconds for _, seconds, _ in stays)) is holdup


def test_a_disk_that_hangs_is_known_while_it_hangs() -> None:
    effort = Effort(2, 0.0)
    effort.enter(0, Stage.STORING, 0.1, 0.0)
    effort.enter(1, Stage.STORING, 0.1, 0.0)
    assert [effort.holdup(at) for at in (1.0, 2.0, 300.0)] == [Holdup.DISK] * 3


def test_each_answer_is_about_the_time_since_the_one_before() -> None:
    effort = an_effort((Stage.STORING, 5.0, 0.0))
    assert effort.holdup(5.0) is Holdup.DISK
    effort.enter(0, Stage.COMPUTING, 5.0, 0.0)
    assert effort.holdup(6.0) is Holdup.PROCESSOR


def test_all_parts_together_stay_within_the_memory_that_is_given() -> None:
    chance = random.Random(8)
    sizes = [chance.randrange(SMALLEST_BYTES, 4 * DEFAULT_BYTES) for _ in range(200)]
    for total in (SMALLEST_BYTES, DEFAULT_BYTES, *sizes):
        workers = chance.randrange(0, 8 * MIB)
        memory = divide_memory(total, workers)
        repair = memory.ring_bytes * REPAIR_ROWS / MAX_BLOCK_SYMBOLS
        assert 64 * MIB + workers + memory.ring_bytes + repair + 2 * memory.socket_bytes <= total
    assert divide_memory(DEFAULT_BYTES).ring_bytes > 90 * MIB


def test_too_little_memory_leaves_nothing_and_is_no_error() -> None:
    assert divide_memory(1).ring_bytes == 0
