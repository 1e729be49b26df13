"""Whether the machines of an order have a disk that takes the image, by what their agents told of them. Pure."""

from collections.abc import Sequence

from imager.agent.inventory import choose_disk, describe_size
from imager.errors import TargetError
from imager.image.manifest import ImageKind, Manifest
from netboot.deployment.records import Machine
from netboot.errors import UserError


def check_targets(machines: Sequence[Machine], target: str, manifest: Manifest) -> None:
    """Raises UserError that lists every machine whose disk cannot be `target` (empty: its only disk), and why."""
    refused = [(machine.name, reason) for machine in machines if (reason := _refusal(machine, target, manifest))]
    if refused:
        listed = "; ".join(f"{name}: {reason}" for name, reason in refused)
        raise UserError(
            f"{len(refused)} of {len(machines)} machines cannot take {manifest.name}: {listed}. "
            "Name another disk with --target, or leave these machines out; nothing was begun"
        )


def _refusal(machine: Machine, target: str, manifest: Manifest) -> str:
    """Why not; empty when it can. The agent looks again before it writes."""
    try:
        disk = choose_disk(target, machine.inventory.disks)
    except TargetError as error:
        return str(error)
    needed = manifest.source_bytes
    if manifest.kind is ImageKind.FILE:
        # What the volume itself takes comes on top: the agent knows.
        facts = manifest.facts.get("wim.1.bytes", "")
        needed = int(facts) if facts.isdecimal() else 0
    if disk.size_bytes < needed:
        return f"{disk.device} has {describe_size(disk.size_bytes)}, the image needs {describe_size(needed)}"
    if manifest.table not in ("", "none") and disk.logical_sector_bytes != manifest.sector_bytes:
        return (
            f"{disk.device} has sectors of {disk.logical_sector_bytes} bytes, "
            f"the image is of a disk with {manifest.sector_bytes}"
        )
    return ""
