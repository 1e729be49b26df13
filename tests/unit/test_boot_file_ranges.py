"""Files that are fetched in ranges by HTTP, as the boot log tells them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from boot_builders import Scene

from netboot.boot.contexts import BootKind
from netboot.bootlog.documents import boot_document, entry_document, parse_boot, parse_entry
from netboot.bootlog.events import Entry, Fetch, FetchState, Span
from netboot.bootlog.file_ranges import MOST_RANGES, add_part
from netboot.bootlog.timeline import Phase, furthest

KERNEL = "agent/vmlinuz"
MB = 1_000_000


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def a_part(first: int, end: int, size: int = MB) -> Fetch:
    return Fetch("http", KERNEL, FetchState.PART, size, end - first, 0.5, ranges=(Span(first, end),), parts=1)


def test_a_range_is_told_as_its_bytes_and_not_as_the_file(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.http(KERNEL, 8 * MB, span=Span(0, 1000))
    (boot,) = scene.boots()
    assert scene.texts()[-1] == "GRUB: HTTP agent/vmlinuz: bytes 0 to 999 of 8 MB, 1 KB sent"
    assert furthest(boot) is Phase.CONFIGURED


def test_ranges_on_their_way_and_cut_off_are_told_as_such(scene: Scene) -> None:
    scene.lease()
    scene.recorder.http_started(scene.peer, KERNEL, 8 * MB, Span(1000, 5000))
    assert scene.texts()[-1] == "GRUB: HTTP agent/vmlinuz, 8 MB, bytes 1,000 to 4,999: on its way"
    scene.http(KERNEL, 8 * MB, span=Span(1000, 5000), sent=7, why="it closed the connection")
    assert scene.texts()[-1] == "GRUB: HTTP agent/vmlinuz: stopped after 7 B of bytes 1,000 to 4,999"


def test_ranges_that_are_all_of_a_file_are_the_file(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    before = len(scene.texts())
    for first in range(0, MB, MB // 4):
        scene.http(KERNEL, span=Span(first, first + MB // 4))
        assert len(scene.texts()) == before + 1
    (boot,) = scene.boots()
    assert scene.texts()[-1] == "GRUB: HTTP agent/vmlinuz: 1 MB in 2.0 s by 4 ranges, 500 KB/s"
    assert furthest(boot) is Phase.KERNEL
    document = json.loads(json.dumps(boot_document(boot)))
    again = parse_boot(document)
    assert again is not None and boot_document(again) == document


def test_the_volume_of_uefi_http_boot_in_ranges_is_one_boot(scene: Scene) -> None:
    name = "uefi/http-52-54-00-00-00-01.img"
    scene.lease()
    scene.told(BootKind.AGENT)
    for first in range(0, 30 * MB, 10 * MB):
        scene.http(name, 30 * MB, span=Span(first, first + 10 * MB))
    scene.registered()
    (boot,) = scene.boots()
    assert sum(isinstance(entry.event, Fetch) for entry in boot.entries) == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_file_is_whole_when_its_last_byte_came_and_not_before(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(20, 60)
    have: set[int] = set()
    told: Fetch | None = None
    while True:
        first = rng.randrange(size)
        end = rng.randint(first + 1, min(size, first + 15))
        have |= set(range(first, end))
        told = add_part(told, a_part(first, end, size)) if told else a_part(first, end, size)
        if len(have) == size:
            break
        assert told.state is FetchState.PART
        assert {byte for span in told.ranges for byte in range(span.first, span.end)} == have
    assert (told.state, told.ranges) == (FetchState.DONE, ())


def test_bytes_here_and_there_take_no_memory() -> None:
    told = a_part(0, 1)
    for first in range(2, 10_000, 2):
        told = add_part(told, a_part(first, first + 1))
    assert len(told.ranges) == MOST_RANGES
    assert (told.parts, told.sent) == (5000, 5000)


@pytest.mark.parametrize("ranges", [[[0, 5]], [{"first": 0}], [{"first": "0", "end": 5}], {"first": 0}, 5])
def test_ranges_of_another_form_are_no_entry(ranges: object) -> None:
    document = entry_document(Entry(1, 0.0, a_part(0, 5)))
    assert parse_entry(document) == Entry(1, 0.0, a_part(0, 5))
    assert parse_entry({**document, "ranges": ranges}) is None
