"""What the agent tells of its machine, read from trees that look like /sys and /proc."""

from pathlib import Path

import pytest

from imager.agent.inventory import Link, choose_disk, describe_size, read_disks, read_inventory, read_nics
from imager.errors import TargetError
from imager.wire.messages import Disk, FirmwareKind, Inventory, decode, encode

LINK = Link("eth0", "52:54:00:aa:00:01", "10.77.0.12")


def put(root: Path, name: str, content: str | bytes = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_disk(root: Path, name: str, place: str, sectors: int, **files: str | bytes) -> None:
    """A disk that hangs at `place` below /sys/devices; a `__` in a file's name stands for a slash."""
    put(root, f"sys/devices/{place}/block/{name}/size", f"{sectors}\n")
    for file, content in files.items():
        put(root, f"sys/devices/{place}/block/{name}/{file.replace('__', '/')}", content)
    (root / "sys/block").mkdir(parents=True, exist_ok=True)
    (root / "sys/block" / name).symlink_to(root / f"sys/devices/{place}/block/{name}")


def a_disk(device: str, *, removable: bool = False, bus: str = "sata") -> Disk:
    return Disk(device, "WD Blue", "S1", 512_000_000_000, 512, bus, removable)


def test_a_bios_machine_is_described_as_its_kernel_shows_it(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/dmi/id/product_uuid", "4C4C4544-0043-3010-8052-B4C04F564D31\n")
    put(tmp_path, "sys/class/dmi/id/product_serial", "To Be Filled By O.E.M.\n")
    put(tmp_path, "sys/class/dmi/id/sys_vendor", "Dell Inc.\n")
    put(tmp_path, "sys/class/dmi/id/product_name", "OptiPlex 7010\n")
    put(
        tmp_path,
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Intel(R)  Core(TM) i5\n\nprocessor\t: 1\nmodel name\t: x\n",
    )
    put(tmp_path, "proc/meminfo", "MemTotal:        8052340 kB\nMemFree: 1 kB\n")
    found = read_inventory("1.2", LINK, tmp_path)
    assert (found.firmware, found.secure_boot) == (FirmwareKind.BIOS, False)
    assert found.system_uuid == "4c4c4544-0043-3010-8052-b4c04f564d31"
    assert (found.manufacturer, found.product, found.serial) == ("Dell Inc.", "OptiPlex 7010", "")
    assert (found.cpu_model, found.cpu_count, found.memory_bytes) == ("Intel(R) Core(TM) i5", 2, 8052340 * 1024)
    assert (found.boot_mac, found.address) == (LINK.mac, LINK.address)
    assert decode(Inventory, encode(found)) == found


@pytest.mark.parametrize(("value", "on"), [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\0", False), (b"", False)])
def test_secure_boot_is_told_by_the_firmwares_variable(tmp_path: Path, value: bytes, on: bool) -> None:
    put(tmp_path, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", value)
    found = read_inventory("1", LINK, tmp_path)
    assert (found.firmware, found.secure_boot) == (FirmwareKind.UEFI, on)


def test_a_machine_whose_kernel_tells_nothing_still_has_an_inventory(tmp_path: Path) -> None:
    found = read_inventory("1", LINK, tmp_path)
    assert (found.disks, found.nics, found.cpu_count, found.memory_bytes) == ((), (), 0, 0)


def test_disks_are_told_by_the_bus_they_hang_on(tmp_path: Path) -> None:
    pci = "pci0000:00"
    page = b"\0\x80\0\x0aS3Z9NB0K12"
    put_disk(tmp_path, "sda", f"{pci}/ata1/host0/target", 1000, device__vendor="ATA     ", device__model="Samsung SSD",
             device__vpd_pg80=page, removable="0", queue__logical_block_size="512")  # fmt: skip
    put_disk(tmp_path, "sdb", f"{pci}/usb2/2-1/host4/target", 2000, device__vendor="Kingston", device__model="DT 101")
    put_disk(tmp_path, "nvme0n1", f"{pci}/nvme/nvme0", 3000, device__model="WD SN750", device__serial="2044A1\n",
             queue__logical_block_size="4096")  # fmt: skip
    put_disk(tmp_path, "vda", f"{pci}/virtio1", 4000, serial="DISK0001", device__vendor="0x1af4")
    put_disk(tmp_path, "sdc", f"{pci}/host6/target", 5000, device__vendor="DELL", device__model="PERC H730")
    disks = {disk.device: disk for disk in read_disks(tmp_path)}
    assert {device: (disk.bus, disk.model, disk.serial, disk.removable) for device, disk in disks.items()} == {
        "/dev/sda": ("sata", "Samsung SSD", "S3Z9NB0K12", False),
        "/dev/sdb": ("usb", "Kingston DT 101", "", True),
        "/dev/nvme0n1": ("nvme", "WD SN750", "2044A1", False),
        "/dev/vda": ("virtio", "", "DISK0001", False),
        "/dev/sdc": ("scsi", "DELL PERC H730", "", False),
    }
    assert disks["/dev/sda"].size_bytes == 512_000
    assert disks["/dev/nvme0n1"].logical_sector_bytes == 4096


def test_what_is_no_disk_to_image_is_left_out(tmp_path: Path) -> None:
    for name in ("loop0", "ram0", "sr0", "fd0", "dm-0", "zram0", "mmcblk0boot0", "md127"):
        put_disk(tmp_path, name, f"virtual/{name}", 100)
    put_disk(tmp_path, "sde", "pci/usb1/reader", 0, removable="1")
    put_disk(tmp_path, "mmcblk0", "pci/mmc_host/mmc0", 100)
    assert [disk.device for disk in read_disks(tmp_path)] == ["/dev/mmcblk0"]


def test_a_single_path_of_an_nvme_disk_with_several_is_left_out(tmp_path: Path) -> None:
    put_disk(tmp_path, "nvme0n1", "virtual/nvme-subsystem/nvme-subsys0", 3000, hidden="0")
    put_disk(tmp_path, "nvme0c0n1", "pci/nvme/nvme0", 3000, hidden="1")
    assert [disk.device for disk in read_disks(tmp_path)] == ["/dev/nvme0n1"]


def test_network_cards_have_a_device_behind_them(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/net/eth0/address", "52:54:00:AA:00:01\n")
    put(tmp_path, "sys/class/net/eth0/speed", "-1\n")
    put(tmp_path, "sys/bus/pci/drivers/e1000e/module", "")
    (tmp_path / "sys/class/net/eth0/device").mkdir()
    (tmp_path / "sys/class/net/eth0/device/driver").symlink_to(tmp_path / "sys/bus/pci/drivers/e1000e")
    put(tmp_path, "sys/class/net/lo/address", "00:00:00:00:00:00\n")
    (nic,) = read_nics(tmp_path)
    assert (nic.name, nic.mac, nic.driver, nic.speed_mbps) == ("eth0", "52:54:00:aa:00:01", "e1000e", 0)


def test_the_only_fixed_disk_is_the_target() -> None:
    stick = a_disk("/dev/sda", removable=True, bus="usb")
    assert choose_disk("", [stick, a_disk("/dev/sdb")]).device == "/dev/sdb"


def test_a_removable_target_is_refused_by_its_name_too_but_may_be_a_source() -> None:
    disks = [a_disk("/dev/sda", removable=True, bus="usb"), a_disk("/dev/sdb")]
    with pytest.raises(TargetError, match=r"target /dev/sda is removable \(usb\) and is not written"):
        choose_disk("/dev/sda", disks)
    assert choose_disk("/dev/sda", disks, role="source").bus == "usb"


def test_a_named_disk_is_taken_when_it_is_there() -> None:
    disks = [a_disk("/dev/sda"), a_disk("/dev/nvme0n1", bus="nvme")]
    assert choose_disk("/dev/nvme0n1", disks).bus == "nvme"


@pytest.mark.parametrize(
    ("named", "disks", "says"),
    [
        ("", [a_disk("/dev/sda"), a_disk("/dev/sdb")], "2 fixed disks"),
        ("", [a_disk("/dev/sda", removable=True)], "no fixed disk"),
        ("", [], "its disks: none"),
        ("/dev/sdz", [a_disk("/dev/sda")], "/dev/sdz is not a disk of this machine"),
        ("/dev/sda1", [a_disk("/dev/sda")], "/dev/sda (512 GB, sata)"),
    ],
)
def test_a_doubtful_target_is_refused_with_the_disks_there_are(named: str, disks: list[Disk], says: str) -> None:
    with pytest.raises(TargetError) as error:
        choose_disk(named, disks)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (4096, "4.1 kB"), (512_110_190_592, "512 GB"), (2_000_398_934_016, "2.0 TB")],
)
def test_sizes_are_as_on_a_disks_label(count: int, text: str) -> None:
    assert describe_size(count) == text
