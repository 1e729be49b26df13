"""Has a UEFI firmware start a disk next, when nothing was written to it: BootNext (UEFI 2.10, section 3.3).

An entry of the firmware itself is taken where it has one. Else one is made that stands in no boot order: who is first
there, the network card most likely, stays first.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imager.agent.restart import BootEntry, Say, boot_disk_next, parse_boot_entries
from imager.customise.linux import partition_node
from imager.disk.devices import inspect
from imager.disk.loaders import LOADERS
from imager.disk.partitions import read_layout
from imager.errors import ImagerError
from imager.image.manifest import Partition
from imager.programs import run
from imager.wire.messages import Disk

LABEL = "Roomcast: local disk"
"""Of the entries that we make."""
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
MBR_ESP_TYPE = "ef"


@dataclass(frozen=True, slots=True)
class SystemPartition:
    """A partition that may hold what the firmware starts."""

    disk: Path
    part: Partition


def start_disk_next(disks: Iterable[Disk], say: Say) -> bool:
    """Whether the next start is a disk's now. Says why when it is not."""
    partitions = [each for disk in disks if not disk.removable for each in _system_partitions(disk, say)]
    try:
        if boot_disk_next((each.part.uuid for each in partitions), say):
            return True
        for each in partitions:
            with _mounted(partition_node(each.disk, each.part)) as top:
                loader = find_loader(top)
            if loader is not None:
                _make_entry(each, loader)
                return boot_disk_next([each.part.uuid], say)
    except (ImagerError, OSError) as error:
        say(f"the firmware cannot be asked to start a disk: {error}")
        return False
    say("no disk of this machine has a system that its firmware could start")
    return False


def find_loader(top: Path) -> str | None:
    """The program of an EFI system partition that starts its system: its path there, with slashes. Case says nothing,
    whatever the file system thinks.
    """
    for loader in LOADERS:
        place = top
        for name in loader.strip("/").split("/"):
            found = [each for each in place.iterdir() if each.name.lower() == name.lower()] if place.is_dir() else []
            if not found:
                break
            place = found[0]
        else:
            if place.is_file():
                return "/" + place.relative_to(top).as_posix()
    return None


def ours(entries: Iterable[BootEntry]) -> list[BootEntry]:
    return [entry for entry in entries if entry.label == LABEL]


def _system_partitions(disk: Disk, say: Say) -> Iterator[SystemPartition]:
    device = Path(disk.device)
    try:
        layout = read_layout(device, inspect(device).size_bytes)
    except (ImagerError, OSError) as error:
        say(f"{device} is passed over: {error}")
        return
    for part in layout.partitions:
        if part.type in (ESP_TYPE, MBR_ESP_TYPE) and part.filesystem == "vfat" and part.uuid:
            yield SystemPartition(device, part)


def _make_entry(place: SystemPartition, loader: str) -> None:
    """Those that we made for disks that are gone are taken away: firmware has little room."""
    for entry in ours(parse_boot_entries(run(["efibootmgr", "-v"], timeout_s=30))):
        run(["efibootmgr", "--quiet", "--bootnum", entry.number, "--delete-bootnum"], timeout_s=30)
    command: list[str | Path] = [
        "efibootmgr",
        "--quiet",
        "--create-only",
        "--disk",
        place.disk,
        "--part",
        str(place.part.number),
    ]
    run([*command, "--label", LABEL, "--loader", loader.replace("/", "\\")], timeout_s=30)


@contextlib.contextmanager
def _mounted(node: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="roomcast-esp-"))
    try:
        run(["mount", "-t", "vfat", "-o", "ro,nosuid,nodev,noexec", node, directory])
        try:
            yield directory
        finally:
            run(["umount", directory])
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()
