"""What an agent may say: ranges and shapes of its messages, checked after they are decoded. Pure.

Raises MessageError that names the field. Text is cut and cleaned of control characters; it stays text: whoever
renders it escapes it.
"""

import math
import re
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address

from imager.errors import MessageError
from imager.wire.messages import Disk, Inventory, Nic, Progress, Proof, TaskResult

LONGEST_TEXT = 256
LONGEST_LINE = 2000
MOST_LOG_LINES = 500
MOST_NICS = 64
MOST_DISKS = 512
MOST_PHASES = 64
LARGEST_COUNT = 2**62
SLOWEST_BYTES_S = 1.0
"""A lower rate is none: what is left would take longer than any clock can tell."""

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9][A-Za-z0-9/_.-]{0,200}")


def check_inventory(inventory: Inventory) -> Inventory:
    """The inventory, its texts cleaned, when it can be kept."""
    check_mac(inventory.boot_mac, "boot_mac")
    try:
        IPv4Address(inventory.address)
    except AddressValueError:
        raise MessageError(f"address: {clean(inventory.address, 40)!r} is not an IPv4 address") from None
    if inventory.system_uuid and not _UUID.fullmatch(inventory.system_uuid):
        raise MessageError("system_uuid: not a lower-case UUID")
    _count(inventory.cpu_count, "cpu_count")
    _count(inventory.memory_bytes, "memory_bytes")
    _seconds(inventory.boot_s, "boot_s")
    if len(inventory.nics) > MOST_NICS or len(inventory.disks) > MOST_DISKS:
        raise MessageError(f"more than {MOST_NICS} NICs or {MOST_DISKS} disks")
    return replace(
        inventory,
        agent_version=clean(inventory.agent_version),
        serial=clean(inventory.serial),
        manufacturer=clean(inventory.manufacturer),
        product=clean(inventory.product),
        cpu_model=clean(inventory.cpu_model),
        nics=tuple(map(_check_nic, inventory.nics)),
        disks=tuple(map(_check_disk, inventory.disks)),
    )


def check_progress(progress: Progress) -> Progress:
    """The progress, its step cleaned, when it can be shown."""
    for field in ("done_bytes", "total_bytes", "chunks_done", "chunks_total", "cast"):
        _count(getattr(progress, field), field)
    _seconds(progress.rate_bytes_s, "rate_bytes_s")
    rate = progress.rate_bytes_s if progress.rate_bytes_s >= SLOWEST_BYTES_S else 0.0
    return replace(progress, step=clean(progress.step, 64), note=clean(progress.note), rate_bytes_s=rate)


def check_result(result: TaskResult) -> TaskResult:
    """The result, its texts cleaned, when it can be kept. A failure without a reason gets one."""
    if result.ok and result.error:
        raise MessageError("error: must be empty when the result is ok")
    error = clean(result.error, LONGEST_LINE)
    return replace(
        result,
        error=error if result.ok or error else "the agent gave no reason",
        log=tuple(clean(line, LONGEST_LINE) for line in result.log[-MOST_LOG_LINES:]),
        proof=_check_proof(result.proof) if result.proof else None,
    )


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text without what cannot be printed, at most `longest` characters.

    Cleaned, not refused: firmware pads its texts with control characters, and such a machine must still register.
    """
    return "".join(c if c.isprintable() else " " for c in text[: longest * 2]).strip()[:longest]


def check_mac(mac: str, field: str) -> str:
    """The MAC itself when it is lower case with colons and a station's own."""
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise MessageError(f"{field}: {mac[:40]!r} is not the lower-case MAC of a station")
    return mac


def check_device(device: str) -> str:
    """The device itself when it is empty or a path below /dev."""
    if device and (not _DEVICE.fullmatch(device) or ".." in device):
        raise MessageError(f"{device[:40]!r} is not a path below /dev")
    return device


def _check_nic(nic: Nic) -> Nic:
    check_mac(nic.mac, "nics.mac")
    _count(nic.speed_mbps, "nics.speed_mbps")
    return replace(nic, name=clean(nic.name), driver=clean(nic.driver))


def _check_disk(disk: Disk) -> Disk:
    if not check_device(disk.device):
        raise MessageError("disks.device: empty")
    _count(disk.size_bytes, "disks.size_bytes")
    _count(disk.logical_sector_bytes, "disks.logical_sector_bytes")
    return replace(disk, model=clean(disk.model), serial=clean(disk.serial), bus=clean(disk.bus))


def _check_proof(proof: Proof) -> Proof:
    if not re.fullmatch(r"[0-9a-f]{64}", proof.manifest_hash):
        raise MessageError("proof.manifest_hash: not 64 hexadecimal digits")
    for field in ("chunks_verified", "chunks_skipped", "received_bytes", "repair_packets", "lost_packets"):
        _count(getattr(proof, field), f"proof.{field}")
    if len(proof.phases_s) > MOST_PHASES:
        raise MessageError(f"proof.phases_s: more than {MOST_PHASES}")
    for seconds in proof.phases_s.values():
        _seconds(seconds, "proof.phases_s")
    phases = {clean(name, 64): seconds for name, seconds in proof.phases_s.items()}
    return replace(proof, disk_serial=clean(proof.disk_serial), phases_s=phases)


def _count(value: int, field: str) -> None:
    if not 0 <= value <= LARGEST_COUNT:
        raise MessageError(f"{field}: not in 0 to {LARGEST_COUNT}")


def _seconds(value: float, field: str) -> None:
    if not math.isfinite(value) or not 0 <= value <= 1e15:
        raise MessageError(f"{field}: not a number from 0 up")
