"""Whole deployments onto a file that stands for a disk: real HTTP, a real cast on loopback, a real store."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_appliance import Appliance
from agent_builders import a_machine, a_session, an_image
from image_builders import MIB, a_store, has_programs, make_ext4

from imager.agent.client import TaskGone
from imager.agent.deploy import run_deploy
from imager.errors import ManifestError, TargetError
from imager.image.capture import capture_image
from imager.image.plan import parse_bitmap
from imager.wire.messages import Identity


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with Appliance() as started:
        yield started


def test_a_blank_disk_gets_the_image_and_the_proof_says_what_it_took(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, data = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    with a_session(appliance, store, manifest) as task:
        proof = run_deploy(task, machine.context)
    assert machine.disk.read_bytes()[: len(data)] == data
    assert proof.manifest_hash == manifest.hash.hex()
    assert (proof.disk_serial, proof.chunks_verified, proof.chunks_skipped) == ("DISK0001", 5, 0)
    assert proof.received_bytes >= sum(manifest.stored_lengths)
    assert list(proof.phases_s) == ["preflight", "scan", "receive", "verify", "customise"]


def test_what_the_disk_holds_already_is_not_asked_for(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, data = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    disk = bytearray(6 * MIB)
    disk[: len(data)] = data
    disk[MIB + 5] ^= 1
    machine.disk.write_bytes(disk)
    with a_session(appliance, store, manifest) as task:
        proof = run_deploy(task, machine.context)
    assert parse_bitmap(appliance.ready[0], 5) == [1]
    assert (proof.chunks_verified, proof.chunks_skipped) == (5, 4)
    assert machine.disk.read_bytes()[: len(data)] == data


def test_a_disk_that_holds_the_whole_image_receives_nothing(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, data = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    machine.disk.write_bytes(data + bytes(MIB))
    with a_session(appliance, store, manifest) as task:
        proof = run_deploy(task, machine.context)
    assert (proof.chunks_skipped, proof.received_bytes) == (5, 0)


def test_a_manifest_of_another_signer_is_refused_before_the_disk_is_looked_at(
    tmp_path: Path, appliance: Appliance
) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    context = replace(machine.context, public_key=bytes(32))
    with a_session(appliance, store, manifest) as task, pytest.raises(ManifestError, match="signed by key"):
        run_deploy(task, context)
    assert appliance.ready == []
    assert machine.disk.read_bytes() == bytes(6 * MIB)


def test_a_manifest_that_is_not_the_tasks_is_refused(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    with a_session(appliance, store, manifest) as task:
        wrong = replace(task, manifest_hash="00" * 32)
        with pytest.raises(ManifestError, match="the task is about 0000000000000000"):
            run_deploy(wrong, machine.context)
    assert machine.disk.read_bytes() == bytes(6 * MIB)


def test_a_manifest_changed_on_its_way_is_refused(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    with a_session(appliance, store, manifest) as task:
        changed = bytearray(appliance.manifest)
        changed[-200] ^= 1
        appliance.manifest = bytes(changed)
        with pytest.raises(ManifestError, match="does not hold"):
            run_deploy(task, machine.context)


def test_a_disk_that_is_too_small_stays_as_it_is(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance, disk_bytes=4 * MIB)
    with a_session(appliance, store, manifest) as task, pytest.raises(TargetError, match="nothing was written"):
        run_deploy(task, machine.context)
    assert appliance.ready == []
    assert machine.disk.read_bytes() == bytes(4 * MIB)


def test_a_disk_that_is_not_the_machines_is_refused(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    with (
        a_session(appliance, store, manifest, target="/dev/sdz") as task,
        pytest.raises(TargetError, match="/dev/sdz is not a disk of this machine"),
    ):
        run_deploy(task, machine.context)


def test_a_hostname_that_is_none_is_found_before_anything_is_sent(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    with a_session(appliance, store, manifest) as task, pytest.raises(TargetError, match="hostname"):
        run_deploy(replace(task, identity=Identity("pc 01; reboot")), machine.context)
    assert appliance.ready == []


def test_a_task_that_was_ended_stops_while_the_disk_is_looked_at(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    machine.context.gone.set()
    with a_session(appliance, store, manifest) as task, pytest.raises(TaskGone):
        run_deploy(task, machine.context)
    progress = machine.context.meter.snapshot()
    assert (progress.step, progress.done_bytes) == ("scan", 0)


def test_a_task_that_was_ended_stops_before_the_disk_is_written(tmp_path: Path, appliance: Appliance) -> None:
    store, manifest, _ = an_image(tmp_path)
    machine = a_machine(tmp_path, appliance)
    machine.context.gone.set()
    with a_session(appliance, store, manifest) as task, pytest.raises(TaskGone):
        run_deploy(task, machine.context)
    assert machine.disk.read_bytes() == bytes(6 * MIB)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not has_programs("ssh-keygen"), reason="mounts a disk, makes keys")
def test_an_image_of_a_deployed_machine_gives_the_next_one_an_identity_of_its_own(
    tmp_path: Path, appliance: Appliance
) -> None:
    tree = tmp_path / "root"
    for name in ("etc/ssh", "usr/lib", "var/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text("ID=debian\n")
    (tree / "etc/ssh/sshd_config").touch()
    golden = tmp_path / "golden.img"
    golden.touch()
    os.truncate(golden, 32 * MIB)
    make_ext4(golden, 0, 32 * MIB, tree)
    store = a_store(tmp_path)
    shown = []
    for number in (1, 2):
        manifest = capture_image(store, golden, "golden")
        (tmp_path / str(number)).mkdir()
        machine = a_machine(tmp_path / str(number), appliance, disk_bytes=32 * MIB)
        context = replace(machine.context, system_uuid=f"uuid-{number}")
        with a_session(appliance, store, manifest) as task:
            run_deploy(task, context)
        golden = machine.disk  # the next image is captured from this machine
        for file in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
            command = ["debugfs", "-R", f"cat {file}", golden]
            shown.append(subprocess.run(command, check=True, capture_output=True).stdout)
    assert all(shown) and len(set(shown)) == 4
