"""Packets that fuzzing began with or found, and a short seeded hunt: nothing but WireError leaves a parser."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from hunt import corpus, mutate
from targets import targets

SHORT_HUNT = 1500


@pytest.mark.parametrize("name", ["dhcp", "tftp"])
def test_corpus_raises_nothing(name: str) -> None:
    packets = corpus(name)
    assert packets
    target = targets()[name]
    for packet in packets:
        target(packet)
        for end in range(len(packet)):
            target(packet[:end])


@pytest.mark.parametrize("name", ["dhcp", "tftp"])
def test_short_hunt_finds_nothing(name: str) -> None:
    import random

    chance, packets, target = random.Random(20), corpus(name), targets()[name]
    for _ in range(SHORT_HUNT):
        target(mutate(chance, packets))
