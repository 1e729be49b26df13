"""What a machine's agent says of it when it registers, for tests."""

import dataclasses
from typing import Any

from imager.wire.messages import Disk, FirmwareKind, Inventory, Nic


def an_inventory(mac: str = "52:54:00:00:00:01", **changes: Any) -> Inventory:
    """Of a BIOS machine with one disk of 4 GiB and the card with this MAC, from which it booted."""
    inventory = Inventory(
        agent_version="0.1.0",
        boot_mac=mac,
        address="10.77.0.50",
        system_uuid="",
        serial="S1",
        manufacturer="QEMU",
        product="Standard PC",
        cpu_model="QEMU Virtual CPU",
        cpu_count=2,
        memory_bytes=2 << 30,
        firmware=FirmwareKind.BIOS,
        secure_boot=False,
        boot_s=6.5,
        disks=(Disk("/dev/vda", "", "disk-1", 4 << 30, 512, "virtio", False),),
        nics=(Nic("eth0", mac, "virtio_net", 0),),
    )
    return dataclasses.replace(inventory, **changes)
