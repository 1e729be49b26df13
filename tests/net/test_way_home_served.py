"""The way home over real sockets: machines without a task, their model's memory, an appliance that restarts."""

import re
from pathlib import Path

import pytest
from netns import INTERFACE, Lan
from test_appliance_serve import Machine, Served, serving

from imager.wire.messages import TaskKind

pytestmark = pytest.mark.root

LEARNT = [("bootnext", 2, 0), ("exit", 0, 0), ("chainload", 0, 2)]
POOL = ("--pool", "10.99.0.100-10.99.0.120")


def asks_grub(machine: Machine, name: str = "machine") -> str:
    """What this machine's GRUB is told: chainload, agent, or exit."""
    status, body = machine.ask("GET", f"/boot/grub/{name}-{machine.host.mac}.cfg")
    assert status == 200, body
    for way, mark in (
        ("agent", rb"^linux|linux \$source"),
        ("chainload", rb"chainloader"),
        ("exit", rb"next boot device"),
    ):
        if re.search(mark, body):
            return way
    return "nothing"


def boots_its_system(machine: Machine) -> None:
    """The installed system's DHCP client asks."""
    machine.host.run(*f"busybox udhcpc -f -n -q -i {INTERFACE} -t 10 -T 1 -s /bin/true".split())


def ways(served: Served, machine: Machine) -> list[tuple[str, int, int]]:
    """In the order in which they are tried: how often each worked, how often it failed."""
    shown = served.json("machine", "show", machine.name)["ways_home"]
    return [(row["way"], row["tally"]["worked"], row["tally"]["failed"]) for row in shown]


def test_what_worked_on_two_machines_is_the_first_way_of_the_third_after_a_restart_too(tmp_path: Path) -> None:
    agent = tmp_path / "appliance" / "data" / "agent"
    agent.mkdir(parents=True)
    (agent / "vmlinuz").write_bytes(b"kernel")
    (agent / "initrd.img").write_bytes(b"initrd")
    with Lan(hosts=4, checksum_offload=False) as lan:
        appliance, *hosts = lan.hosts
        machines = [Machine(host, appliance.ip) for host in hosts]
        with serving(appliance, tmp_path / "appliance", *POOL) as served:
            for machine in machines:
                machine.register()
            for machine in machines[:2]:
                assert asks_grub(machine) == "chainload"
                assert machine.take(0).kind is TaskKind.WAIT, "an agent that somebody started meanwhile stays"
                assert asks_grub(machine, "failed-chainload") == "agent"
                task = machine.take(0)
                assert (task.kind, task.boot_next) == (TaskKind.BOOT_LOCAL, True)
                boots_its_system(machine)
            assert ways(served, machines[2]) == LEARNT
            assert "bootnext (2 worked on this model)" in served.roomcast("machine", "show", machines[2].name).stdout
        with serving(appliance, tmp_path / "appliance", *POOL) as served:
            assert ways(served, machines[2]) == LEARNT
            assert asks_grub(machines[2]) == "agent"
            chosen = served.roomcast("machine", "boot-way", machines[1].name, "exit")
            assert chosen.stdout == f"{machines[1].name} goes by exit, then bootnext, then chainload\n", chosen.stderr
            assert asks_grub(machines[1]) == "exit"
            refused = served.roomcast("machine", "boot-way", machines[1].name, "sideways")
            assert refused.returncode != 0 and "auto" in refused.stderr
