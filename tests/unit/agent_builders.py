"""A machine for the agent's tests: a context whose disk is a file, an image in a store, a cast of it on loopback."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent_appliance import Appliance
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from image_builders import KEY, MIB, a_store, random_bytes
from inventories import an_inventory

from imager.agent.client import ApplianceClient
from imager.agent.inventory import Link
from imager.agent.progress import Meter
from imager.agent.tasks import TaskContext
from imager.image.capture import capture_image
from imager.image.manifest import Manifest
from imager.image.plan import build_bitmap
from imager.image.store import ImageStore, StoredImage
from imager.transport.caster import CastProcess, SenderAddress
from imager.wire.messages import (
    Admission,
    After,
    DeployTask,
    Disk,
    FirmwareKind,
    Identity,
)

PUBLIC_KEY = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
INVENTORY = an_inventory(address="127.0.0.1")


@dataclass
class Machine:
    """A machine whose only disk is `disk`."""

    disk: Path
    context: TaskContext
    said: list[str] = field(default_factory=list)


def a_machine(directory: Path, appliance: Appliance, disk_bytes: int = 6 * MIB) -> Machine:
    disk = directory / "disk.img"
    if not disk.exists():
        disk.touch()
        os.truncate(disk, disk_bytes)
    said: list[str] = []
    client = ApplianceClient(appliance.url, lambda: INVENTORY, said.append)
    client.register(5)
    context = TaskContext(
        task_id=5,
        client=client,
        meter=Meter(time.monotonic),
        say=said.append,
        link=Link("lo", "52:54:00:aa:00:01", "127.0.0.1"),
        firmware=FirmwareKind.BIOS,
        disks=lambda: (Disk(str(disk), "Test disk", "DISK0001", disk_bytes, 512, "sata", False),),
        public_key=PUBLIC_KEY,
    )
    return Machine(disk, context, said)


def an_image(directory: Path, size_bytes: int = 5 * MIB, seed: int = 3) -> tuple[ImageStore, Manifest, bytes]:
    """A captured volume without a file system: every byte counts, half of it random."""
    source = directory / f"golden-{seed}.img"
    data = random_bytes(size_bytes // 2, seed) + b"roomcast" * (size_bytes // 16)
    source.write_bytes(data)
    store = a_store(directory)
    return store, capture_image(store, source, "golden"), data


@contextlib.contextmanager
def a_session(
    appliance: Appliance, store: ImageStore, manifest: Manifest, target: str = "", address: str = "127.0.0.1"
) -> Iterator[DeployTask]:
    """Casts `manifest` from `address` as soon as the machine says it is ready. Gives the task that belongs to it."""
    appliance.manifest = store.signed_manifest(manifest.name, manifest.version)
    sender = SenderAddress(manifest.created_s & 0xFFFF, "239.255.77.7", 20000 + os.getpid() % 20000, address)
    nothing = build_bitmap([], len(manifest.chunks))  # the machine says what it lacks, as to the appliance
    cast = CastProcess(StoredImage(manifest, store), sender, wanted=nothing)
    cast.start()
    ended = threading.Event()
    lock = threading.Lock()

    def begin(bitmap: bytes) -> Admission:
        with lock:
            admitted = cast.admit(bitmap)
            cast.begin()
            return Admission(admitted)

    def drain() -> None:
        while not ended.wait(0.05):
            with lock:
                cast.events()

    appliance.on_ready = begin
    drainer = threading.Thread(target=drain, daemon=True)
    drainer.start()
    try:
        yield DeployTask(
            image=manifest.name,
            version=manifest.version,
            manifest_hash=manifest.hash.hex(),
            target=target,
            identity=Identity("pc-01"),
            after=After.STAY,
        )
    finally:
        ended.set()
        drainer.join()
        cast.stop()
