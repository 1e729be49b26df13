"""The agent as it is built, booted in emulated machines: it registers, captures a disk over HTTP, survives a refusal.

Direct kernel boot and QEMU's user network: no firmware, no multicast. The classroom's tests have both.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from agent_appliance import Appliance
from image_builders import KEY, MIB, a_tree, make_ext4, partition_file

from imager.agent.build import SIZE_LIMIT_BYTES, build_agent
from imager.image.chunks import Decompressor
from imager.image.manifest import parse_unsigned
from imager.wire.messages import After, CaptureTask, FirmwareKind, Task, TaskKind

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="building the agent needs root"),
]

CACHE = Path("/var/cache/roomcast-lab/agent-test")
"""The agent's Debian part stays here from one run to the next; it is named by what it is made of."""
BOOT_S = 150
"""An emulated machine on a busy box."""


@pytest.fixture(scope="module")
def agent() -> Path:
    build_agent(CACHE)
    return CACHE


@contextmanager
def a_machine(agent: Path, appliance: Appliance, disk: Path, console: Path) -> Iterator["subprocess.Popen[bytes]"]:
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    words = f"roomcast.server=http://10.0.2.2:{appliance.port} roomcast.key={public} BOOTIF=01-52-54-00-aa-00-01"
    command: list[str | Path] = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-m", "1024", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", f"file:{console}",
        "-kernel", agent / "vmlinuz", "-initrd", agent / "initrd.img", "-append", f"{words} console=ttyS0",
        "-uuid", "4c4c4544-0043-3010-8052-b4c04f564d31",
        "-netdev", "user,id=net", "-device", "e1000,netdev=net,mac=52:54:00:aa:00:01,romfile=",
        "-device", "ahci,id=ahci", "-drive", f"file={disk},if=none,id=disk,format=raw",
        "-device", "ide-hd,drive=disk,bus=ahci.0,serial=LAB0001",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(event: threading.Event, console: Path) -> None:
    if not event.wait(BOOT_S):
        pytest.fail(f"nothing came in {BOOT_S} s; the console's end:\n{console.read_text(errors='replace')[-3000:]}")


def test_kernel_and_initramfs_are_small_enough_and_say_what_they_are(agent: Path) -> None:
    told = json.loads((agent / "agent.json").read_text())
    sizes = [(agent / name).stat().st_size for name in ("vmlinuz", "initrd.img")]
    assert sizes == [told["kernel_bytes"], told["initramfs_bytes"]]
    assert sum(sizes) <= SIZE_LIMIT_BYTES
    assert {"python3.11", "partclone", "blake3"} <= told["packages"].keys()


def test_a_second_build_takes_the_base_from_the_cache(agent: Path) -> None:
    said: list[str] = []
    before = (agent / "initrd.img").read_bytes()
    build = build_agent(agent, say=said.append)
    assert "base: unchanged, taken from the cache" in said
    assert build.build_s < 20
    assert (agent / "initrd.img").read_bytes() == before


def test_a_machine_registers_captures_its_disk_and_goes_off(agent: Path, tmp_path: Path) -> None:
    disk = partition_file(tmp_path / "disk.img", 64 * MIB, "label: gpt\nsize=16MiB\nsize=32MiB\n")
    make_ext4(disk, 17 * MIB, 32 * MIB, a_tree(tmp_path))
    console = tmp_path / "console.txt"
    with Appliance() as appliance, a_machine(agent, appliance, disk, console) as process:
        # The first task cannot be done: it must be reported, and the next one done.
        appliance.tasks.put(Task(5, TaskKind.CAPTURE, capture=CaptureTask("golden", "/dev/sdz", After.POWEROFF)))
        wait_for(appliance.result_told, console)
        appliance.result_told.clear()
        appliance.tasks.put(Task(6, TaskKind.CAPTURE, capture=CaptureTask("golden", "", After.POWEROFF)))
        wait_for(appliance.result_told, console)
        process.wait(BOOT_S)
    (found,) = appliance.registrations
    assert (found.boot_mac, found.address, found.firmware) == ("52:54:00:aa:00:01", "10.0.2.15", FirmwareKind.BIOS)
    assert found.system_uuid == "4c4c4544-0043-3010-8052-b4c04f564d31"
    assert [(d.device, d.serial, d.bus, d.size_bytes) for d in found.disks] == [
        ("/dev/sda", "LAB0001", "sata", 64 * MIB)
    ]
    assert [nic.driver for nic in found.nics] == ["e1000"]
    failed, done = appliance.results
    assert "/dev/sdz is not a disk of this machine" in failed.error
    assert (done.ok, done.error) == (True, "")
    manifest = parse_unsigned(appliance.published[0])
    assert [partition.filesystem for partition in manifest.layout] == ["", "ext4"]
    restored = bytearray(64 * MIB)
    for chunk in manifest.chunks:
        raw = Decompressor().open(appliance.chunks[chunk.hash.hex()], chunk.raw_bytes, chunk.hash)
        for extent in chunk.extents:
            restored[extent.offset : extent.offset + extent.length] = raw[: extent.length]
            raw = raw[extent.length :]
    copy = tmp_path / "copy.img"
    copy.write_bytes(restored)
    with copy.open("r+b") as file:
        file.seek(17 * MIB)
        volume = file.read(32 * MIB)
    (tmp_path / "volume.img").write_bytes(volume)
    subprocess.run(["e2fsck", "-fn", tmp_path / "volume.img"], check=True, capture_output=True)
    assert "switching off" in console.read_text(errors="replace")
