"""Machines whose first way to their disk fails take the next one: real firmware, `roomcast serve`, the agent as built.

Each disk spoils the first start: what GRUB starts resets the machine at once, as a loader that dislikes its caller
does, and only a later start says that it is the local disk.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).parents[1] / "net"))
from classroom.boot_disks import LOCAL_SAYS
from classroom.firmware import OVMF, SEABIOS
from classroom.machine import Machine, MachineSpec
from inventories import an_inventory
from netns import Lan
from test_appliance_serve import Served, serving

from imager.agent.build import build_agent
from imager.wire.messages import FirmwareKind, encode

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

AGENT_CACHE = Path("/var/cache/roomcast-lab/agent-test")
MIB = 1 << 20
ESP_BYTES = 48 * MIB


def make_bios_disk(path: Path) -> Path:
    """Its boot sector notes in the clock's memory that it was started, and resets; the second time it speaks."""
    code = bytes.fromhex(
        "fa"  # cli
        "b050 e670 e471"  # register 50h of the clock
        "3ca5 7410"  # cmp al, 0xa5; je speak
        "b050 e670 b0a5 e671"  # write it
        "b0fe e664"  # the keyboard controller's reset
        "f4 ebfd 90"  # hlt; jmp
        "31c0 8ed8"  # speak: xor ax, ax; mov ds, ax
        "be 407c fc ac"  # mov si, 0x7c40; cld; next: lodsb
        "84c0 74fe"  # test al, al; jz $
        "88c4 bafd03 ec a820 74fb"  # wait for the serial port
        "baf803 88e0 ee ebe9"  # out; jmp next
    )
    sector = code.ljust(0x40, b"\0") + f"\r\n{LOCAL_SAYS}\r\n".encode() + b"\0"
    path.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(2 * MIB))
    return path


def make_uefi_disk(path: Path) -> Path:
    """Its EFI/BOOT/BOOTX64.EFI is a GRUB that keeps in its environment that it was started, and resets."""
    esp, folder = path.with_suffix(".esp"), path.with_suffix(".d")
    folder.mkdir()
    (folder / "grub.cfg").write_text(
        f"load_env\nif [ \"$tried\" = yes ]; then\n    echo '{LOCAL_SAYS}'\n    sleep 600\nfi\n"
        "set tried=yes\nsave_env tried\necho 'started, and resets'\nreboot\n"
    )
    _run("grub-editenv", str(folder / "grubenv"), "create")
    modules = "part_gpt fat normal configfile loadenv test echo sleep reboot"
    _run(
        *("grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o", str(folder / "BOOTX64.EFI")),
        *modules.split(),
    )
    esp.write_bytes(b"")
    os.truncate(esp, ESP_BYTES)
    _run("mformat", "-F", "-i", str(esp), "::")
    _run("mmd", "-i", str(esp), "::EFI", "::EFI/BOOT")
    for name in ("grub.cfg", "grubenv", "BOOTX64.EFI"):
        _run("mcopy", "-i", str(esp), str(folder / name), f"::EFI/BOOT/{name}")
    path.write_bytes(b"")
    os.truncate(path, 64 * MIB)
    _run("sfdisk", "--quiet", str(path), stdin=f"label: gpt\nstart=2048, size={ESP_BYTES // 512}, type=uefi\n".encode())
    with path.open("r+b") as disk:
        disk.seek(MIB)
        disk.write(esp.read_bytes())
    return path


def _run(*command: str, stdin: bytes = b"") -> None:
    subprocess.run(command, input=stdin, check=True, capture_output=True)


@contextmanager
def a_machine(lan: Lan, directory: Path, spec: MachineSpec, disk: Path) -> Iterator[Machine]:
    """Switched on: network card first, disk second."""
    lan.bridge.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    lan.bridge.run("ip", "link", "set", "tap0", "master", "br0", "up")
    machine = Machine(spec, directory=directory, logs=directory, namespace=lan.bridge.name, tap="tap0")
    machine.prepare(disk)
    machine.power_on()
    try:
        yield machine
    finally:
        machine.power_off()


def register(served: Served, mac: str, firmware: FirmwareKind) -> None:
    """As its agent would: the machine is known, and has no task."""
    inventory = replace(an_inventory(mac), firmware=firmware)
    told = served.directory / "inventory"
    told.write_bytes(encode(inventory))
    url = f"http://{served.host.ip}/agent/v1/register"
    served.host.run("curl", "-sSf", "--data-binary", f"@{told}", "-o", "/dev/null", url)


def test_bios_whose_boot_sector_resets_under_grub_starts_the_disk_itself(tmp_path: Path) -> None:
    mac, pool = "52:54:00:98:00:01", ("--pool", "10.99.0.100-10.99.0.120")
    with (
        Lan(hosts=1, checksum_offload=False) as lan,
        serving(lan.hosts[0], tmp_path / "appliance", *pool) as served,
    ):
        register(served, mac, FirmwareKind.BIOS)
        with a_machine(lan, tmp_path, MachineSpec("pc", SEABIOS, mac), make_bios_disk(tmp_path / "disk")) as machine:
            machine.wait_for(LOCAL_SAYS, 150)
            said = machine.serial.text()
            assert said.index("starting the first disk") < said.index("the firmware goes on")
            assert said.count("starting the first disk") == 1


def test_uefi_whose_loader_resets_under_grub_is_started_by_bootnext(tmp_path: Path) -> None:
    build_agent(AGENT_CACHE)
    mac, pool = "52:54:00:98:00:02", ("--pool", "10.99.0.100-10.99.0.120")
    agent = tmp_path / "appliance" / "data" / "agent"
    agent.mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(AGENT_CACHE / name, agent / name)
    with (
        Lan(hosts=1, checksum_offload=False) as lan,
        serving(lan.hosts[0], tmp_path / "appliance", *pool) as served,
    ):
        register(served, mac, FirmwareKind.UEFI)
        with a_machine(lan, tmp_path, MachineSpec("pc", OVMF, mac), make_uefi_disk(tmp_path / "disk")) as machine:
            machine.wait_for("started, and resets", 150)
            machine.wait_for("the agent has the firmware start the disk", 300)
            machine.wait_for("next start: Roomcast: local disk", 500)
            machine.wait_for(LOCAL_SAYS, 600)
