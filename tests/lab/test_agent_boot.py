"""The agent as it is built, booted in emulated machines: it registers, captures a disk over HTTP, applies a WIM.

Direct kernel boot, without firmware's network boot: the classroom's tests have that.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).parents[1] / "net"))
from agent_appliance import Appliance
from agent_builders import a_session
from image_builders import KEY, MIB, a_store, a_tree, make_ext4, partition_file
from netns import Lan, Namespace

from imager.agent.build import SIZE_LIMIT_BYTES, build_agent
from imager.files.wim import import_wim
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
def a_machine(
    agent: Path, appliance: Appliance, disk: Path, console: Path, network: Namespace | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """network: the bridge's namespace, where the machine gets a tap; None: QEMU's own network."""
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    server, netdev, enter = f"http://10.0.2.2:{appliance.port}", "user,id=net", []
    if network is not None:
        server, netdev = appliance.url, "tap,id=net,ifname=tap0,script=no,downscript=no"
        network.run("ip", "tuntap", "add", "tap0", "mode", "tap")
        network.run("ip", "link", "set", "tap0", "master", "br0", "up")
        enter = network.command()
    words = f"roomcast.server={server} roomcast.key={public} BOOTIF=01-52-54-00-aa-00-01 console=ttyS0"
    command: list[str | Path] = [
        *enter, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-m", "1024", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", f"file:{console}",
        "-kernel", agent / "vmlinuz", "-initrd", agent / "initrd.img", "-append", words,
        "-uuid", "4c4c4544-0043-3010-8052-b4c04f564d31",
        "-netdev", netdev, "-device", "e1000,netdev=net,mac=52:54:00:aa:00:01,romfile=",
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


def a_wim(directory: Path) -> tuple[Path, Path]:
    """A WIM of a tree with names and sizes as Windows has them, and the tree."""
    tree = directory / "windows"
    (tree / "Windows/System32").mkdir(parents=True)
    for i in range(12):
        (tree / f"Windows/System32/größe {i}.dll").write_bytes(os.urandom(200_000 + i))
    (tree / "empty.txt").touch()
    wim = directory / "windows.wim"
    command = ["wimlib-imagex", "capture", tree, wim, "Windows test", "--compress=XPRESS", "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    return wim, tree


def test_a_wim_is_cast_and_applied_to_a_new_ntfs_volume(agent: Path, tmp_path: Path) -> None:
    wim, tree = a_wim(tmp_path)
    store = a_store(tmp_path)
    manifest = import_wim(wim, store, "windows")
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    console = tmp_path / "console.txt"
    with Lan(hosts=1, network="10.96.0.0/24", checksum_offload=False) as lan, lan.hosts[0].entered():
        host = lan.hosts[0]
        host.popen(
            "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-ping", "--bind-interfaces",
            "--interface=e0", "--dhcp-range=10.96.0.100,10.96.0.150,1h", f"--dhcp-leasefile={tmp_path / 'leases'}",
        )  # fmt: skip
        with (
            Appliance(host.ip) as appliance,
            a_session(appliance, store, manifest, address=host.ip) as task,
            a_machine(agent, appliance, disk, console, lan.bridge) as process,
        ):
            deploy = replace(task, after=After.POWEROFF)
            appliance.tasks.put(Task(5, TaskKind.DEPLOY, deploy=deploy))
            wait_for(appliance.result_told, console)
            process.wait(BOOT_S)
    (result,) = appliance.results
    assert (result.ok, result.error) == (True, ""), result.log
    assert result.proof is not None and result.proof.chunks_verified == len(manifest.chunks)
    table = json.loads(subprocess.run(["sfdisk", "--json", disk], capture_output=True, check=True).stdout)
    (volume,) = table["partitiontable"]["partitions"]
    assert (table["partitiontable"]["label"], volume["type"], volume["bootable"]) == ("dos", "7", True)
    ntfs = tmp_path / "ntfs.img"
    subprocess.run(
        ["dd", f"if={disk}", f"of={ntfs}", f"skip={volume['start']}", "conv=sparse", "status=none"], check=True
    )
    for file in sorted(path for path in tree.rglob("*") if path.is_file()):
        name = f"/{file.relative_to(tree)}"
        shown = subprocess.run(
            ["ntfscat", ntfs, name], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
        assert shown.stdout == file.read_bytes(), name
