"""Packets that fuzzing began with or found, and a short seeded hunt: nothing but its own error leaves a parser."""

import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netboot.errors import WireError
from netboot.wire.dhcp import parse_dhcp
from netboot.wire.dhcp_options import MessageType
from netboot.wire.tftp import ReadRequest, parse_tftp

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from corpus import corpus, mutate
from shaped import Hunted, search
from targets import targets

SHORT_HUNT = 1500
SERIES = 60
TARGETS = ["dhcp", "tftp", "cast-sender", "cast-receiver", "cast-words", "cast-tcp"]


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_raises_nothing(name: str) -> None:
    packets = corpus(name)
    assert packets
    target = targets()[name]
    for packet in packets:
        target(packet)
        for end in range(len(packet)):
            target(packet[:end])


@pytest.mark.parametrize("name", TARGETS)
def test_short_hunt_finds_nothing(name: str) -> None:
    chance, packets, target = random.Random(20), corpus(name), targets()[name]
    for _ in range(SHORT_HUNT):
        target(mutate(chance, packets))


@pytest.mark.parametrize("name", TARGETS)
def test_short_search_among_packets_of_the_right_shape_finds_nothing(name: str) -> None:
    found = search(name, lambda: targets()[name], "20", SERIES, math.inf)
    assert found.error is None, found.raising
    assert found.packets >= SERIES


def searches(name: str, fresh: Callable[[], Callable[[bytes], None]]) -> Iterator[Hunted]:
    """Some, of a seed each. What a seed means to hypothesis depends on the modules that are loaded."""
    for number in range(30):
        yield search(name, fresh, str(number), SERIES, math.inf)


def test_a_search_tells_the_shortest_series_that_raises() -> None:
    class Careless:
        """Falls over the second request for two blocks at once."""

        def __init__(self) -> None:
            self.seen = 0

        def tftp(self, data: bytes) -> None:
            try:
                packet = parse_tftp(data)
            except WireError:
                return
            self.seen += isinstance(packet, ReadRequest) and "windowsize" in packet.options
            if self.seen == 2:
                raise IndexError("planted")

    found = next(found for found in searches("tftp", lambda: Careless().tftp) if found.error)
    assert isinstance(found.error, IndexError)
    assert len(found.raising) == 2
    assert all(b"windowsize" in packet.lower() for packet in found.raising)


def test_a_search_draws_packets_of_every_kind() -> None:
    kinds = set()

    def note(data: bytes) -> None:
        try:
            kinds.add(parse_dhcp(data).message_type)
        except WireError as error:
            kinds.add(str(error).split(" ")[0])

    wanted = {*MessageType, None, "option"}
    assert any(kinds >= wanted for _ in searches("dhcp", lambda: note)), wanted - kinds
