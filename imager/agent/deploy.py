"""One deployment on this machine: from the signed manifest to a disk that is proven to hold the image.

The steps in order, each either done or the reason why not. How the image comes here is in reception.py, what writes
bytes in intake.py, what comes after the image in imager.customise; a file image (WIM) goes the same way up to its
volume (see volume.py).
"""

import os
from pathlib import Path

from imager.agent.intake import FileTarget, Target
from imager.agent.inventory import choose_disk, describe_size
from imager.agent.reception import Counters, Reception
from imager.agent.restart import boot_disk_next
from imager.agent.tasks import TaskContext
from imager.agent.volume import check_volume_target, make_volume, scratch_file
from imager.customise.identity import check_hostname, name_owner
from imager.customise.linux import customise_disk
from imager.disk.devices import inspect
from imager.disk.partitions import read_layout
from imager.disk.writer import DiskTarget
from imager.errors import ManifestError
from imager.files.wim import apply_wim
from imager.image.manifest import ImageKind, Manifest, parse_signed
from imager.image.plan import parse_bitmap
from imager.multicast.memory import DEFAULT_BYTES, SMALLEST_BYTES
from imager.transport.receive import PreparedReceiver
from imager.wire.messages import DeployTask, Disk, Proof

STEPS = ("preflight", "scan", "receive", "verify", "customise", "reboot")


class _SpareReceiver:
    """A receiving process that starts while the disk is looked at, for the step that will need it."""

    def __init__(self) -> None:
        self._prepared: PreparedReceiver | None = PreparedReceiver()

    def take(self) -> PreparedReceiver | None:
        """Its owner is now who asked."""
        prepared, self._prepared = self._prepared, None
        return prepared

    def close(self) -> None:
        if (prepared := self.take()) is not None:
            prepared.close()


def run_deploy(task: DeployTask, context: TaskContext) -> Proof:
    """Do it. Raises an ImagerError with the one line that a person needs; a disk that was refused is untouched."""
    spare = _SpareReceiver()
    try:
        context.meter.begin("preflight")
        manifest = _fetch_manifest(task, context)
        disk = choose_disk(task.target, context.disks())
        context.say(
            f"{task.image} version {task.version}: {len(manifest.chunks)} chunks, "
            f"{describe_size(manifest.used_bytes)} in use, to {disk.device} ({disk.model or disk.bus})"
        )
        if task.identity.hostname:
            check_hostname(task.identity.hostname)
        if manifest.kind is ImageKind.FILE:
            return _deploy_file(task, context, manifest, disk, spare)
        return _deploy_sectors(task, context, manifest, disk, spare)
    finally:
        spare.close()


def _fetch_manifest(task: DeployTask, context: TaskContext) -> Manifest:
    manifest = parse_signed(context.client.manifest(context.task_id), context.public_key)
    if manifest.hash.hex() != task.manifest_hash:
        raise ManifestError(
            f"the appliance sent manifest {manifest.hash.hex()[:16]}..., the task is about {task.manifest_hash[:16]}..."
        )
    return manifest


def _deploy_sectors(
    task: DeployTask, context: TaskContext, manifest: Manifest, disk: Disk, spare: _SpareReceiver
) -> Proof:
    meter = context.meter

    def scanned(done: int, total: int) -> None:
        context.check_wanted()
        meter.set_done(done, total)

    with DiskTarget(Path(disk.device), manifest) as target:
        target.check_target()
        meter.begin("scan", manifest.used_bytes)
        lacking = target.scan(scanned)
        counters = _receive(context, manifest, target, lacking, spare)
        meter.begin("verify")
        target.finish()
    meter.begin("customise")
    owner = name_owner(context.system_uuid, context.link.mac, disk.serial)
    customise_disk(Path(disk.device), task.identity, owner, context.say)
    return _proof(context, manifest, disk, lacking, counters)


def _deploy_file(
    task: DeployTask, context: TaskContext, manifest: Manifest, disk: Disk, spare: _SpareReceiver
) -> Proof:
    """The file is received whole and proven before the disk is touched; then the disk gets a table and a volume."""
    check_volume_target(Path(disk.device), int(manifest.facts.get("wim.1.bytes", "0")))
    with scratch_file(manifest.source_bytes, _memory_bytes()) as path, FileTarget(path, manifest) as target:
        lacking = target.scan()
        counters = _receive(context, manifest, target, lacking, spare)
        context.meter.begin("verify")
        context.check_wanted()
        volume = make_volume(Path(disk.device), context.firmware, context.say)
        apply_wim(path, volume, 1)
        os.sync()
    context.meter.begin("customise")
    context.say("a file image keeps its own identity: nothing to customise")
    return _proof(context, manifest, disk, lacking, counters)


def _receive(
    context: TaskContext,
    manifest: Manifest,
    target: Target,
    lacking: bytes,
    spare: _SpareReceiver,
) -> Counters:
    wanted = parse_bitmap(lacking, len(manifest.chunks))
    total = sum(manifest.chunks[i].raw_bytes for i in wanted)
    context.check_wanted()
    context.meter.begin("receive", total, len(wanted))
    count = len(manifest.chunks)
    context.say(f"the disk lacks {len(wanted)} of {count} chunks ({describe_size(total)}), holds {count - len(wanted)}")
    return Reception(context, manifest, target, wanted, _memory_bytes(), spare.take).run()


def _memory_bytes() -> int:
    """What receiving may take: a third of the memory, within bounds. The rest is for the root file system and the
    kernel."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(SMALLEST_BYTES, min(DEFAULT_BYTES, memory // 3))


def _proof(context: TaskContext, manifest: Manifest, disk: Disk, lacking: bytes, counters: Counters) -> Proof:
    wanted = len(parse_bitmap(lacking, len(manifest.chunks)))
    return Proof(
        manifest_hash=manifest.hash.hex(),
        disk_serial=disk.serial,
        chunks_verified=len(manifest.chunks),
        chunks_skipped=len(manifest.chunks) - wanted,
        received_bytes=counters.received_bytes,
        repair_packets=counters.repair_packets,
        lost_packets=counters.lost_packets,
        phases_s={step: round(seconds, 2) for step, seconds in context.meter.phases().items()},
    )


def boot_written_disk(task: DeployTask, context: TaskContext) -> None:
    """Ask a UEFI firmware to start from the disk that was written, when it has an entry for it."""
    disk = Path(choose_disk(task.target, context.disks()).device)
    layout = read_layout(disk, inspect(disk).size_bytes)
    if not boot_disk_next((partition.uuid for partition in layout.partitions), context.say):
        context.say("the firmware has no entry for this disk yet: the appliance starts it")
