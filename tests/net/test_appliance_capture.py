"""A machine's disk becomes an image: the agent's own client and capture against `roomcast serve`."""

import dataclasses
import random
import threading
import time
from pathlib import Path

import pytest
from inventories import an_inventory
from netns import INTERFACE, Lan
from test_appliance_serve import Machine, serving

from imager.agent.capture import run_capture
from imager.agent.client import ApplianceClient, TaskGone
from imager.agent.inventory import Link
from imager.agent.progress import Meter
from imager.agent.tasks import TaskContext
from imager.wire.messages import Disk, FirmwareKind, Nic, TaskKind, TaskResult

pytestmark = pytest.mark.root


def test_agent_captures_a_disk_and_the_image_restores_to_the_same_bytes(tmp_path: Path) -> None:
    chance = random.Random(5)
    disk = tmp_path / "sda.img"
    repeated = chance.randbytes(1 << 20)
    disk.write_bytes(repeated + chance.randbytes(5_000_192) + repeated)
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path / "appliance") as served:
        host = lan.hosts[1]
        nic = Nic(INTERFACE, host.mac, "veth", 0)
        told = Disk("/dev/sda", "", "s1", disk.stat().st_size, 512, "sata", False)
        here = dataclasses.replace(told, device=str(disk))
        inventory = an_inventory(host.mac, address=host.ip, disks=(told,), nics=(nic,))
        lines: list[str] = []
        failures: list[BaseException] = []

        def agent() -> None:
            try:
                with host.entered():
                    client = ApplianceClient(f"http://{lan.hosts[0].ip}:80", lambda: inventory, lines.append)
                    name = client.register().name
                    # A machine that takes its next task from one that was cancelled must notice it.
                    assert served.roomcast("capture", name, "--name", "dropped").returncode == 0
                    dropped = client.next_task(20)
                    assert served.roomcast("task", "cancel", str(dropped.id)).returncode == 0
                    with pytest.raises(TaskGone):
                        client.put_chunk(dropped.id, bytes(32), b"x")
                    assert served.roomcast("capture", name, "--name", "room-a").returncode == 0
                    task = client.next_task(20)
                    assert task.kind is TaskKind.CAPTURE and task.capture is not None
                    context = TaskContext(
                        task_id=task.id,
                        client=client,
                        meter=Meter(time.monotonic),
                        say=lines.append,
                        link=Link(INTERFACE, host.mac, host.ip),
                        firmware=FirmwareKind.BIOS,
                        disks=lambda: (here,),
                        public_key=None,
                    )
                    run_capture(task.capture, context)
                    client.result(task.id, TaskResult(True, "", tuple(lines)))
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=agent)
        thread.start()
        thread.join(120)
        assert not thread.is_alive()
        if failures:
            raise failures[0]
        images = served.json("image", "list")
        assert [(image["name"], image["version"]) for image in images] == [("room-a", 1)]
        assert served.roomcast("image", "verify", "room-a").returncode == 0
        states = [task["state"] for task in served.json("task", "list")]
        assert states == ["cancelled", "succeeded"]
        output = tmp_path / "out.img"
        restored = served.roomcast("image", "restore", "room-a", str(output))
        assert restored.returncode == 0, restored.stderr
        assert output.read_bytes() == disk.read_bytes()


def test_kernel_and_boot_configuration_are_fetched_as_a_machine_does(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:
        kernel = served.data / "agent" / "vmlinuz"
        kernel.parent.mkdir(exist_ok=True)
        kernel.write_bytes(random.Random(1).randbytes(3_000_000))
        kernel.with_name("initrd.img").write_bytes(b"initrd")
        server, host = lan.hosts[0].ip, lan.hosts[1]
        fetched = tmp_path / "vmlinuz"
        host.run("curl", "-sSf", "-o", str(fetched), f"http://{server}/boot/agent/vmlinuz")
        assert fetched.read_bytes() == kernel.read_bytes()
        url = f"http://{server}/boot/agent/vmlinuz"
        assert host.run("curl", "-sSf", "-r", "9-99", "-o", str(fetched), "-w", "%{http_code}", url) == "206"
        assert fetched.read_bytes() == kernel.read_bytes()[9:100]
        path = f"http://{server}/boot/grub/machine-{host.mac}.cfg"
        stranger = host.run("curl", "-sSf", path)
        assert "agent/vmlinuz" in stranger and f"roomcast.server=http://{server}:80" in stranger
        Machine(host, server).register()
        known = host.run("curl", "-sSf", path)
        assert "agent/vmlinuz" not in known
