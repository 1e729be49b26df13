"""What this machine is: read from /sys and /proc, where the kernel tells it. Writes nothing, starts no program.

Every fact that a kernel or a firmware leaves out becomes empty or 0; a machine with odd firmware still registers.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imager.errors import TargetError
from imager.wire.messages import Disk, FirmwareKind, Inventory, Nic

SECTOR_BYTES = 512
"""Of /sys/block/*/size, whatever the disk's own sector is."""

_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""UEFI 2.10, section 3.3: four bytes of attributes, then 1 when Secure Boot is on."""

_NOT_DISKS = re.compile(r"(loop|ram|zram|sr|fd|dm-|md|nbd|mtdblock)\d|mmcblk\d+(boot\d|rpmb)")
_PLACEHOLDERS = {"", "none", "not specified", "to be filled by o.e.m.", "default string", "system serial number", "0"}
"""What board makers leave in SMBIOS instead of a number."""


@dataclass(frozen=True, slots=True)
class Link:
    """The interface that reaches the appliance."""

    name: str
    mac: str
    address: str
    """IPv4, dotted."""


def read_inventory(agent_version: str, link: Link, root: Path = Path("/")) -> Inventory:
    """Everything the appliance wants to know. `root` holds `sys` and `proc`."""
    dmi = root / "sys/class/dmi/id"
    cpu_model, cpu_count = _cpu(root)
    uefi = (root / "sys/firmware/efi").is_dir()
    return Inventory(
        agent_version=agent_version,
        boot_mac=link.mac,
        address=link.address,
        system_uuid=_text(dmi / "product_uuid").lower(),
        serial=_named(dmi / "product_serial"),
        manufacturer=_named(dmi / "sys_vendor"),
        product=_named(dmi / "product_name"),
        cpu_model=cpu_model,
        cpu_count=cpu_count,
        memory_bytes=_memory_bytes(root),
        firmware=FirmwareKind.UEFI if uefi else FirmwareKind.BIOS,
        secure_boot=_secure_boot(root),
        boot_s=round(time.clock_gettime(time.CLOCK_BOOTTIME), 2),
        disks=read_disks(root),
        nics=read_nics(root),
    )


def read_disks(root: Path = Path("/")) -> tuple[Disk, ...]:
    """The disks of this machine by name; no partitions, optical drives, loop devices or empty card readers.

    A hidden one (a single path to an NVMe namespace that has several) has no device to open; the namespace itself is
    there beside it.
    """
    paths = [path for path in sorted((root / "sys/block").glob("*")) if not _NOT_DISKS.match(path.name)]
    found = (_disk(path) for path in paths if _number(path / "hidden") != 1)
    return tuple(disk for disk in found if disk.size_bytes > 0)


def read_nics(root: Path = Path("/")) -> tuple[Nic, ...]:
    """The network cards: interfaces with a device behind them."""
    paths = sorted((root / "sys/class/net").glob("*"))
    return tuple(_nic(path) for path in paths if (path / "device").exists())


def choose_disk(named: str, disks: Sequence[Disk], *, role: str = "target") -> Disk:
    """The disk called `named`, or when that is empty the only disk that is not removable.

    Raises TargetError that lists the disks when there is no such disk, or no single one; and for a removable target:
    it may be what somebody left in the machine, and its name may be another disk's at the next start.
    """
    listed = ", ".join(f"{disk.device} ({describe_size(disk.size_bytes)}, {disk.bus})" for disk in disks) or "none"
    if named:
        for disk in disks:
            if disk.device != named:
                continue
            if disk.removable and role == "target":
                raise TargetError(
                    f"target {named} is removable ({disk.bus}) and is not written: name a fixed disk of this machine "
                    f"(its disks: {listed})"
                )
            return disk
        raise TargetError(f"{role} {named} is not a disk of this machine; its disks: {listed}")
    fixed = [disk for disk in disks if not disk.removable]
    if len(fixed) == 1:
        return fixed[0]
    if not fixed:
        raise TargetError(f"this machine has no fixed disk to be the {role}; its disks: {listed}")
    raise TargetError(f"this machine has {len(fixed)} fixed disks: name the {role} (its disks: {listed})")


def describe_size(count: int) -> str:
    """A size in bytes for a person: 512 GB. Decimal units, as on a disk's label."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _disk(path: Path) -> Disk:
    place = str(path.resolve())
    device = path / "device"
    bus = _bus(place, path.name)
    vendor, model = _text(device / "vendor"), _text(device / "model")
    # virtio disks have a PCI number as vendor; ATA disks call themselves by their interface.
    prefix = "" if vendor.startswith("0x") or vendor in ("ATA", "") else f"{vendor} "
    return Disk(
        device=f"/dev/{path.name.replace('!', '/')}",
        model=f"{prefix}{model}".strip(),
        serial=_disk_serial(path),
        size_bytes=_number(path / "size") * SECTOR_BYTES,
        logical_sector_bytes=_number(path / "queue/logical_block_size") or SECTOR_BYTES,
        bus=bus,
        removable=_number(path / "removable") == 1 or bus == "usb",
    )


def _bus(place: str, name: str) -> str:
    """From where the disk hangs in /sys/devices. USB first: a USB disk is a SCSI disk too."""
    if re.search(r"/usb\d", place):
        return "usb"
    if name.startswith("nvme"):
        return "nvme"
    if "/virtio" in place:
        return "virtio"
    if re.search(r"/ata\d", place):
        return "sata"
    if re.search(r"/host\d", place):
        return "scsi"
    return "unknown"


def _disk_serial(path: Path) -> str:
    for place in (path / "serial", path / "device/serial"):
        if text := _text(place):
            return text
    try:  # SCSI and ATA: page 0x80, four bytes of header (SPC-4, section 7.8.14)
        page = (path / "device/vpd_pg80").read_bytes()
    except OSError:
        return ""
    return page[4:].decode("ascii", "ignore").strip("\0 ")


def _nic(path: Path) -> Nic:
    driver = path / "device/driver"
    return Nic(
        name=path.name,
        mac=_text(path / "address").lower(),
        driver=driver.resolve().name if driver.exists() else "",
        speed_mbps=max(0, _number(path / "speed")),
    )


def _cpu(root: Path) -> tuple[str, int]:
    text = _text(root / "proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", text, re.M)
    return (" ".join(models[0].split()) if models else ""), len(re.findall(r"^processor\s*:", text, re.M))


def _memory_bytes(root: Path) -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.M)
    return int(match[1]) * 1024 if match else 0


def _secure_boot(root: Path) -> bool:
    try:
        return (root / _SECURE_BOOT).read_bytes()[4:5] == b"\1"
    except OSError:
        return False


def _named(path: Path) -> str:
    text = _text(path)
    return "" if text.lower() in _PLACEHOLDERS else text


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else 0
