"""The agent as a program in a network namespace: `python -m classroom.agent_program SERVER DISK MAC ADDRESS`.

DISK is a block device or a file: the machine's only one. MAC and ADDRESS are the machine's, as /sys tells only of the
interfaces outside its namespace. Each line of its log goes to stdout; a restart is a line too, and its end.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from classroom.cast_room import INTERFACE
from imager.agent import main as agent_main
from imager.agent import restart
from imager.agent.client import ApplianceClient
from imager.agent.console import Console
from imager.agent.inventory import Link, read_inventory
from imager.agent.panel import PanelState
from imager.disk.devices import inspect
from imager.wire.messages import Disk, Inventory, Nic


def main() -> None:
    server, device, mac, address = sys.argv[1:]
    disk = Disk(device, "Test disk", "DISK0001", inspect(Path(device)).size_bytes, 512, "sata", False)
    link = Link(INTERFACE, mac, address)
    console = Console([], [sys.stdout.fileno()], PanelState("", "test", (), ""))

    def inventory() -> Inventory:
        # what /sys and SMBIOS tell is this computer's, and each agent is another machine
        found = read_inventory("test", link)
        return replace(found, system_uuid="", serial="", nics=(Nic(INTERFACE, mac, "veth", 0),))

    def leave(how: str) -> Callable[[], None]:
        def now() -> None:
            console.say(how)
            sys.exit(0)

        return now

    agent_main.read_disks = lambda: (disk,)  # type: ignore[assignment,attr-defined,misc]
    restart.reboot, restart.power_off = leave("rebooted"), leave("powered off")
    client = ApplianceClient(server, inventory, console.say)
    agent = agent_main.Agent(client, console, inventory, None, pause=lambda seconds: None)
    agent.register()
    agent_main.warm_up()
    while True:
        agent.run_once()


if __name__ == "__main__":
    main()
