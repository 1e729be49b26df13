"""A disk becomes an image over HTTP: only what the appliance lacks is sent, all of it or nothing is published."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_appliance import Appliance
from agent_builders import Machine, a_machine
from image_builders import MIB, random_bytes

from imager.agent.capture import run_capture
from imager.agent.client import Refused, TaskGone
from imager.errors import TargetError
from imager.image.chunks import Decompressor
from imager.image.manifest import parse_unsigned
from imager.wire.messages import After, CaptureTask

TASK = CaptureTask("golden", "", After.STAY)


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with Appliance() as started:
        yield started


@pytest.fixture
def machine(tmp_path: Path, appliance: Appliance) -> Machine:
    made = a_machine(tmp_path, appliance)
    made.disk.write_bytes(random_bytes(2 * MIB, 1) + bytes(2 * MIB) + random_bytes(2 * MIB, 2))
    return made


def test_what_is_published_gives_the_disk_back(machine: Machine, appliance: Appliance) -> None:
    run_capture(TASK, machine.context)
    manifest = parse_unsigned(appliance.published[0])
    assert (manifest.name, manifest.version, manifest.source_bytes) == ("golden", 0, 6 * MIB)
    disk = bytearray(6 * MIB)
    for chunk in manifest.chunks:
        raw = Decompressor().open(appliance.chunks[chunk.hash.hex()], chunk.raw_bytes, chunk.hash)
        for extent in chunk.extents:
            disk[extent.offset : extent.offset + extent.length] = raw[: extent.length]
            raw = raw[extent.length :]
    assert disk == machine.disk.read_bytes()


def test_a_second_capture_sends_nothing_that_is_held(machine: Machine, appliance: Appliance) -> None:
    run_capture(TASK, machine.context)
    appliance.requests.clear()
    run_capture(TASK, machine.context)
    assert [method for method, _ in appliance.requests if method == "PUT"] == []
    assert appliance.published[0].count(b"golden") == appliance.published[1].count(b"golden")


def test_an_appliance_that_takes_no_chunk_fails_the_capture(machine: Machine, appliance: Appliance) -> None:
    appliance.answers += [(404, b""), (404, b""), (422, b'{"detail": "hash"}')] + [(422, b"")] * 20
    with pytest.raises(Refused):
        run_capture(TASK, machine.context)
    assert appliance.published == []


def test_a_capture_that_was_ended_publishes_nothing(machine: Machine, appliance: Appliance) -> None:
    machine.context.gone.set()
    with pytest.raises(TaskGone):
        run_capture(TASK, machine.context)
    assert appliance.published == []


def test_a_source_that_is_not_the_machines_disk_is_refused(machine: Machine, appliance: Appliance) -> None:
    with pytest.raises(TargetError, match="source /dev/sdq is not a disk of this machine"):
        run_capture(CaptureTask("golden", "/dev/sdq", After.STAY), machine.context)
    assert appliance.chunks == {}
