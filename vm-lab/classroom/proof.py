"""What proves that a machine was imaged: its agent's report beside what the booted system said itself. Pure.

Neither is enough alone: the agent has read back every chunk but has not booted; the system that booted does not know
whether all of its disk is right.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imager.wire.messages import FirmwareKind, Proof

_LINE = re.compile(r"^ROOMCAST-PROOF (?P<facts>[^\n]*)\n", re.MULTILINE)
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
NO_HOST_KEY = "none"


@dataclass(frozen=True, slots=True)
class BootedSystem:
    """What a system that booted from its own disk printed."""

    hostname: str
    machine_id: str
    firmware: str
    root: str
    """Device of its root file system."""
    host_key: str
    """Public SSH host key, base64; NO_HOST_KEY when it has none."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was deployed."""

    name: str
    version: int
    manifest_hash: str
    chunks: int
    machine_id: str
    """Machine-id in the image itself: no machine may keep it."""


@dataclass(frozen=True, slots=True)
class MachineProof:
    """All that is known of one machine at the end."""

    name: str
    """The hostname it was to get."""
    firmware: FirmwareKind
    disk_serial: str
    register_s: float | None
    """Seconds from power-on until its agent had registered; None: never."""
    report: Proof | None
    """Its agent's; None: the task did not succeed."""
    error: str
    """Why the task failed."""
    booted: BootedSystem | None
    boot_s: float | None
    """Seconds from the agent's report until the booted system printed its line."""
    dropped_packets: int
    """Packets to this machine that the lab's loss took."""


def parse_booted(serial_text: str) -> BootedSystem | None:
    """The last whole proof line on a serial line; None when there is none that says everything."""
    for match in reversed(list(_LINE.finditer(serial_text))):
        facts = dict(word.split("=", 1) for word in match["facts"].split() if "=" in word)
        try:
            return BootedSystem(
                facts["hostname"], facts["machine-id"], facts["firmware"], facts["root"], facts["host-key"]
            )
        except KeyError:
            continue
    return None


def find_doubts(machines: Sequence[MachineProof], image: ImageFacts) -> Mapping[str, Sequence[str]]:
    """For each machine what is not proven, in words; empty lists when all is."""
    return {
        machine.name: [*_report_doubts(machine, image), *_boot_doubts(machine, machines, image)] for machine in machines
    }


def _report_doubts(machine: MachineProof, image: ImageFacts) -> list[str]:
    if machine.register_s is None:
        return ["its agent never registered"]
    if machine.report is None:
        return [f"deployment failed: {machine.error or 'no result'}"]
    doubts = []
    if machine.report.manifest_hash != image.manifest_hash:
        doubts.append("its agent verified another manifest")
    if machine.report.chunks_verified != image.chunks:
        doubts.append(f"{machine.report.chunks_verified} of {image.chunks} chunks verified")
    if machine.report.disk_serial != machine.disk_serial:
        doubts.append(f"it wrote disk {machine.report.disk_serial!r}, not {machine.disk_serial!r}")
    return doubts


def _boot_doubts(machine: MachineProof, machines: Sequence[MachineProof], image: ImageFacts) -> list[str]:
    booted = machine.booted
    if booted is None:
        return ["its own disk has not booted"]
    doubts = []
    if booted.hostname != machine.name:
        doubts.append(f"it calls itself {booted.hostname!r}")
    if booted.firmware != machine.firmware:
        doubts.append(f"it booted by {booted.firmware}")
    others = [other.booted for other in machines if other is not machine and other.booted is not None]
    if not _MACHINE_ID.fullmatch(booted.machine_id):
        doubts.append(f"its machine-id {booted.machine_id!r} is none")
    elif booted.machine_id == image.machine_id:
        doubts.append("it kept the machine-id of the image")
    elif any(other.machine_id == booted.machine_id for other in others):
        doubts.append("another machine has its machine-id")
    if booted.host_key == NO_HOST_KEY:
        doubts.append("it has no SSH host key")
    elif any(other.host_key == booted.host_key for other in others):
        doubts.append("another machine has its SSH host key")
    return doubts
