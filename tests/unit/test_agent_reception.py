"""How chunks come to a machine when not by one cast: by unicast, by a second sender, or not at all."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent_appliance import Appliance
from agent_builders import Machine, a_machine, an_image

from imager.agent import reception
from imager.agent.client import TaskGone
from imager.agent.intake import FileTarget
from imager.agent.reception import Counters, Reception
from imager.agent.unicast import AHEAD, UnicastSource
from imager.errors import CastError, GroupUnheard
from imager.image.manifest import Chunk, Manifest
from imager.image.plan import parse_bitmap
from imager.image.store import ImageStore, places_of, read_first_sound
from imager.wire.messages import Admission, CastAddress
from imager.wire.session import Holdup

UNICAST = Admission(unicast=True, reason="it heard nothing of the probe")


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with Appliance() as started:
        yield started


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "PAUSE_S", 0.0)


@dataclass
class Scene:
    """An image, a machine, and a file that takes the image."""

    directory: Path
    appliance: Appliance
    machine: Machine = field(init=False)
    store: ImageStore = field(init=False)
    manifest: Manifest = field(init=False)
    data: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.store, self.manifest, self.data = an_image(self.directory)
        self.machine = a_machine(self.directory, self.appliance)
        for chunk in self.manifest.chunks:
            self.appliance.chunks[chunk.hash.hex()] = read_first_sound(places_of(self.store, chunk))
        self.appliance.on_ready = lambda bitmap: UNICAST

    @property
    def output(self) -> Path:
        return self.directory / "output"

    @property
    def fetched(self) -> list[str]:
        return [path.rpartition("/")[2][:8] for method, path in self.appliance.requests if method == "GET"]

    def receive(self, target_class: type[FileTarget] = FileTarget) -> Counters:
        with target_class(self.output, self.manifest) as target:
            lacking = parse_bitmap(target.scan(), len(self.manifest.chunks))
            return Reception(self.machine.context, self.manifest, target, lacking, 64 << 20, lambda: None).run()


@pytest.fixture
def scene(tmp_path: Path, appliance: Appliance) -> Scene:
    return Scene(tmp_path, appliance)


def test_a_machine_that_no_cast_reaches_fetches_every_chunk_once(scene: Scene) -> None:
    counters = scene.receive()
    assert scene.output.read_bytes() == scene.data
    assert sorted(scene.fetched) == sorted(chunk.hash.hex()[:8] for chunk in scene.manifest.chunks)
    assert counters.received_bytes == sum(scene.manifest.stored_lengths)
    assert "by unicast: it heard nothing of the probe" in scene.machine.said


def test_a_chunk_that_comes_damaged_is_fetched_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = scene.manifest.chunks[2]
    client = scene.machine.context.client
    whole, tries = client.chunk, []

    def chunk(task_id: int, chunk_hash: bytes) -> bytes:
        stored = whole(task_id, chunk_hash)
        if chunk_hash == broken.hash and not tries:
            tries.append(1)
            return stored[:-1]
        return stored

    monkeypatch.setattr(client, "chunk", chunk)
    scene.receive()
    assert scene.output.read_bytes() == scene.data
    assert scene.fetched.count(broken.hash.hex()[:8]) == 2


def test_what_came_before_an_end_is_not_asked_for_again(scene: Scene) -> None:
    context = scene.machine.context

    class Ending(FileTarget):
        """Its third chunk is the last before the word that the way is over."""

        stored = 0

        def write_chunk(self, chunk: Chunk, raw: bytes | memoryview) -> None:
            super().write_chunk(chunk, raw)
            Ending.stored += 1
            if Ending.stored == 3:
                context.cast_over.set()

    def admit(bitmap: bytes) -> Admission:
        context.cast_over.clear()
        return UNICAST

    scene.appliance.on_ready = admit
    scene.receive(Ending)
    assert scene.output.read_bytes() == scene.data
    first, second = (parse_bitmap(bitmap, len(scene.manifest.chunks)) for bitmap in scene.appliance.ready)
    assert len(first) == 5 and len(second) <= 2
    assert Ending.stored == 5


def test_a_machine_that_hears_nothing_of_its_cast_says_so_and_fetches(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unheard(self: Reception, cast: CastAddress, bitmap: bytes) -> None:
        raise GroupUnheard("the sender answers, but none of its multicast packets arrived")

    cast = CastAddress(1, 1, "239.77.1.1", 7400, "127.0.0.1", 7101, 1472, "00" * 32, "00" * 32)
    monkeypatch.setattr(Reception, "_receive_cast", unheard)
    scene.appliance.on_ready = lambda bitmap: UNICAST if len(scene.appliance.ready) > 1 else Admission(cast)
    scene.receive()
    assert scene.output.read_bytes() == scene.data
    asked = [path.partition("ready")[2] for _, path in scene.appliance.requests if "ready" in path]
    assert asked == ["", "?unheard=true"]


def test_an_appliance_that_tells_no_way_is_asked_some_times_and_no_more(scene: Scene) -> None:
    scene.appliance.on_ready = lambda bitmap: Admission()
    with pytest.raises(CastError, match="tells no way"):
        scene.receive()
    assert len(scene.appliance.ready) == reception.MOST_FRUITLESS
    assert sum("asking the appliance again" in line for line in scene.machine.said) == reception.MOST_FRUITLESS - 1


def test_a_task_that_was_ended_meanwhile_is_not_asked_about_again(scene: Scene) -> None:
    def admit(bitmap: bytes) -> Admission:
        scene.machine.context.gone.set()
        return Admission()

    scene.appliance.on_ready = admit
    with pytest.raises(TaskGone):
        scene.receive()
    assert len(scene.appliance.ready) == 1


def test_fetched_chunks_that_nobody_has_taken_are_bounded() -> None:
    fetched: list[int] = []

    def fetch(index: int) -> bytes:
        fetched.append(index)
        return b"chunk"

    waited: list[int] = []

    def ask() -> Holdup:
        if len(fetched) == AHEAD and not waited:
            waited.append(len(fetched))
            source.release(0, True)
        return Holdup.NONE

    source = UnicastSource(fetch, range(AHEAD + 1))
    chunks = source.chunks(ask)
    for _ in range(AHEAD):
        next(chunks)
    assert next(chunks).index == AHEAD
    assert waited == [AHEAD]
