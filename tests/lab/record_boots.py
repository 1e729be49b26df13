"""Records the boot logs of real firmware as data for tests: run it as root, as often as the log learns something new.

`PYTHONPATH=vm-lab .venv/bin/python tests/lab/record_boots.py [NAME...]` starts `roomcast serve` and one machine
for each scene, waits until the machine has done what the scene is about, and writes what `roomcast boot log MAC --json`
says to tests/data/boots/NAME.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boot_room import BRIDGE, BootRoom, boot_room
from classroom.boot_disks import LOCAL_SAYS, make_bios_disk
from classroom.firmware import OVMF, OVMF_CHAIN, OVMF_HTTP, OVMF_SECURE, SEABIOS, Firmware

ROOMCAST = str(Path(sys.executable).parent / "roomcast")
BOOTS = Path(__file__).parents[1] / "data" / "boots"
MAC = "52:54:00:b0:07:01"
KEPT = ("mac", "started_s", "machine", "address", "dropped", "next_s", "entries")
"""The record; the rest of what the API says is made from it."""


@dataclass(frozen=True)
class Scene:
    firmware: Firmware
    until: Callable[[str], bool]
    """Looks at the words of the log, and of the machine's serial line."""
    proxy: bool = False
    before: Callable[[BootRoom], None] = lambda room: None
    disk: Callable[[Path], Path] | None = None
    settings: str = ""
    """More of roomcast.toml."""


def drop(port: int) -> Callable[[BootRoom], None]:
    """A firewall between the machines and the appliance."""

    def rule(room: BootRoom) -> None:
        room.namespace.run("nft", "add", "table", "inet", "gone")
        room.namespace.run("nft", "add", "chain", "inet", "gone", "in", "{ type filter hook input priority 0; }")
        room.namespace.run("nft", "add", "rule", "inet", "gone", "in", "udp", "dport", str(port), "drop")

    return rule


def without_agent(room: BootRoom) -> None:
    """So that every machine is told to start its own disk."""
    for file in (room.directory / "data" / "agent").iterdir():
        file.unlink()


SCENES = {
    "seabios-agent-silent": Scene(SEABIOS, lambda said: "agent-missing" in said),
    "ovmf-agent-silent": Scene(OVMF, lambda said: "agent-missing" in said),
    "ovmf-http": Scene(OVMF_HTTP, lambda said: "volume-silent" in said or "http-stopped" in said),
    "ovmf-proxy-secure-boot-refused": Scene(OVMF_SECURE, lambda said: "secure-boot-refused" in said, proxy=True),
    "ovmf-secure-kernel-refused": Scene(OVMF_SECURE, lambda said: "kernel-refused" in said),
    "seabios-proxy": Scene(SEABIOS, lambda said: "agent/initrd.img" in said and "on its way" not in said, proxy=True),
    "ovmf-proxy-ipxe-chained": Scene(
        OVMF_CHAIN,
        lambda said: "agent/initrd.img" in said and "on its way" not in said,
        proxy=True,
        settings=f'boot-programs = {{ uefi-x64 = "{OVMF_CHAIN.chained}" }}\n',
    ),
    "seabios-own-disk": Scene(
        SEABIOS, lambda said: "grub.cfg-01" in said and LOCAL_SAYS in said, before=without_agent, disk=make_bios_disk
    ),
    "ovmf-own-disk-fails": Scene(OVMF, lambda said: "failed-chainload" in said, before=without_agent),
    "seabios-tftp-blocked": Scene(SEABIOS, lambda said: "never-fetched" in said, before=drop(69)),
}
LONGEST_S = 200.0


def play(scene: Scene, directory: Path) -> tuple[list[dict[str, Any]], str]:
    """The boots of the machine as the log tells them, and what its own serial line said."""
    with boot_room(directory) as room:
        data, socket = room.directory / "data", room.directory / "api.sock"
        serve = [ROOMCAST, "serve", "--interface", BRIDGE, "--data", str(data), "--socket", str(socket)]
        if scene.proxy:
            room.serve_addresses("10.98.0.200", "10.98.0.220", server="10.98.0.2")
            serve += ["--mode", "proxy"]
        if scene.settings:
            (room.directory / "roomcast.toml").write_text(scene.settings)
            serve += ["--config", str(room.directory / "roomcast.toml")]
        scene.before(room)
        log = room.directory / "log"
        with log.open("wb") as output:
            room.namespace.popen(*serve, output=output.fileno(), env={**os.environ, "NO_COLOR": "1"})
        deadline_s = time.monotonic() + LONGEST_S
        while "Ctrl-C ends it" not in log.read_text():
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        disk = scene.disk(room.directory / "disk.raw") if scene.disk else None
        with room.machine(scene.firmware, MAC, disk) as machine:
            said = ""
            while not scene.until(said + machine.text()):
                assert time.monotonic() < deadline_s, f"{said}\n{machine.text()[-3000:]}"
                time.sleep(1)
                command = [ROOMCAST, "boot", "log", MAC, "--json", "--socket", str(socket)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            boots: list[dict[str, Any]] = json.loads(said)
            return boots, machine.text()


def record(name: str, scene: Scene) -> None:
    with tempfile.TemporaryDirectory() as directory:
        boots, _ = play(scene, Path(directory))
    kept = [{key: boot[key] for key in KEPT} for boot in boots]
    (BOOTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*SCENES, []], help=f"of {', '.join(SCENES)}")
    for chosen in parser.parse_args().names or SCENES:
        record(chosen, SCENES[chosen])
