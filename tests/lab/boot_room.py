"""A room for boot tests: the boot services on a bridge in a network namespace, and emulated machines beside them.

Machines have real firmware: see vm-lab/classroom/firmware.py; their disks are small: boot_disks.py beside it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "net"))
from classroom.firmware import Firmware
from classroom.other_dhcp import dnsmasq_command
from netns import Namespace
from tiny_kernel import build_tiny_kernel

BRIDGE = "br0"
SERVER = "10.98.0.1"
INITRD_SAYS = "the initrd arrived whole"
_HERE = Path(__file__).parent
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|c)")


class BootedMachine:
    """A running QEMU and what its serial line says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self._started_s = time.monotonic()

    def text(self) -> str:
        said = self._log.read_bytes().decode(errors="replace") if self._log.exists() else ""
        return _ESCAPES.sub("", said).replace("\r", "")

    def wait_for(self, text: str, timeout_s: float = 120) -> float:
        """Wait until the machine said `text`, line breaks apart; seconds since its power-on. AssertionError if not."""
        wanted = "".join(text.split())
        while wanted not in "".join(self.text().split()):
            ended = self._process.poll()
            late = time.monotonic() - self._started_s > timeout_s
            if ended is not None or late:
                why = "within its time" if late else f"before QEMU ended with {ended}"
                raise AssertionError(f"not said {why}: {text!r}; the last lines:\n{self.text()[-3000:]}")
            time.sleep(0.1)  # a file that grows has nothing to wait on
        return time.monotonic() - self._started_s


class BootRoom:
    """The services and the network; see `boot_room`."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        self.directory = directory
        self.namespace = namespace
        self._next_boot = directory / "next-boot.json"
        self._events = directory / "events"
        self._taps = 0
        self._others: list[Namespace] = []

    def prepare(self) -> None:
        agent = self.directory / "data" / "agent"
        agent.mkdir(parents=True)
        (agent / "vmlinuz").write_bytes(build_tiny_kernel())
        (agent / "initrd.img").write_bytes(f"\n{INITRD_SAYS}\n".encode() + b"\0" + os.urandom(3_000_000))
        self.set_next_boot({})
        self.namespace.run("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        self.namespace.run("ip", "addr", "add", f"{SERVER}/24", "dev", BRIDGE)
        for link in ("lo", BRIDGE):
            self.namespace.run("ip", "link", "set", link, "up")

    def clear(self) -> None:
        """End every process and remove the networks."""
        for namespace in (self.namespace, *self._others):
            namespace.end_processes()
            subprocess.run(["ip", "netns", "del", namespace.name], check=True)

    def set_next_boot(self, steps: dict[str, dict[str, str]]) -> None:
        """What machines do next, by MAC; those not named get the agent."""
        self._next_boot.write_text(json.dumps(steps))

    def serve(self, *options: str) -> None:
        """Start the services and wait until they are ready."""
        with self._events.open("wb") as events:
            process = self.namespace.popen(
                *(sys.executable, str(_HERE / "boot_server.py"), f"--interface={BRIDGE}"),
                *(f"--data={self.directory / 'data'}", f"--next-boot={self._next_boot}", *options),
                output=events.fileno(),
            )
        deadline_s = time.monotonic() + 30
        while not any(event.get("ready") for event in self.events()):
            said = self._events.read_text()
            assert process.poll() is None and time.monotonic() < deadline_s, f"the services did not start:\n{said}"
            time.sleep(0.05)

    def serve_addresses(self, first: str, last: str, server: str) -> None:
        """Another DHCP server beside ours, on an address of its own: real dnsmasq."""
        self.namespace.run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
        self.namespace.run("ip", "link", "set", "other1", "master", BRIDGE, "up")
        other = Namespace(f"{self.namespace.name}-o")
        subprocess.run(["ip", "netns", "add", other.name], check=True)
        self._others.append(other)
        self.namespace.run("ip", "link", "set", "other0", "netns", other.name)
        other.run("ip", "addr", "add", f"{server}/24", "dev", "other0")
        other.run("ip", "link", "set", "other0", "up")
        other.run("ethtool", "-K", "other0", "tx", "off")
        other.popen(*dnsmasq_command("other0", first, last, self.directory / "dnsmasq.leases"))

    def events(self) -> list[dict[str, Any]]:
        """What the services were asked, in order."""
        lines = self._events.read_text().splitlines() if self._events.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def fetched(self, by: str, peer: str = "") -> list[str]:
        """Paths that were sent whole, in order, to one machine or to all."""
        sent = [event for event in self.events() if event["by"] == by and event["ok"]]
        return [event["path"].lstrip("/") for event in sent if peer in ("", event["peer"])]

    def told(self) -> dict[str, str]:
        """The file that each machine was told, by MAC."""
        return {event["mac"]: event["told"] for event in self.events() if event["by"] == "dhcp"}

    @contextmanager
    def machine(self, firmware: Firmware, mac: str, disk: Path | None = None) -> Iterator[BootedMachine]:
        """A machine that is switched on, from its network card first and its disk second."""
        tap = f"tap{self._taps}"
        self._taps += 1
        self.namespace.run("ip", "tuntap", "add", tap, "mode", "tap")
        self.namespace.run("ip", "link", "set", tap, "master", BRIDGE, "up")
        log = self.directory / f"{tap}.serial"
        board = f"{firmware.machine},{firmware.console}" if firmware.console else firmware.machine
        command = [firmware.program, "-accel", "tcg,thread=multi", "-cpu", firmware.cpu, "-m", "512", "-nodefaults"]
        command += ["-display", "none", "-serial", f"file:{log}", "-no-reboot", "-machine", board, *firmware.options]
        if firmware.variables is not None:
            variables = self.directory / f"{tap}.vars"
            shutil.copyfile(firmware.variables, variables)
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={firmware.code}"]
            command += ["-drive", f"if=pflash,format=raw,file={variables}"]
        rom = "" if firmware.rom is None else f",romfile={firmware.rom}"
        command += ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
        command += ["-device", f"{firmware.nic},netdev=net,mac={mac},bootindex=0{rom}"]
        if disk is not None:
            command += ["-drive", f"if=none,id=disk,format=raw,snapshot=on,file={disk}"]
            command += ["-device", "virtio-blk-pci,drive=disk,bootindex=1"]
        process = self.namespace.popen(*command)
        try:
            yield BootedMachine(process, log)
        finally:
            process.kill()
            process.wait()


@contextmanager
def boot_room(directory: Path) -> Iterator[BootRoom]:
    """An empty room; everything in it ends with the block."""
    namespace = Namespace(f"rctest-{os.getpid()}-boot")
    room = BootRoom(directory, namespace)
    subprocess.run(["ip", "netns", "add", namespace.name], check=True)
    try:
        room.prepare()
        yield room
    finally:
        room.clear()
