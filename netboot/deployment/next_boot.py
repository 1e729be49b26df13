"""What a machine that boots from the network shall do: its agent, or its own disk.

Asked by the boot files as they are rendered, from the event loop or a thread: a few quick reads.
"""

from netboot.boot.contexts import BootKind, NextBoot
from netboot.deployment.homecoming import Homecoming
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository


class NextBoots:
    """Decides by MAC."""

    def __init__(self, machines: MachineRepository, sessions: SessionRepository, homecoming: Homecoming) -> None:
        self._machines = machines
        self._sessions = sessions
        self._homecoming = homecoming

    def next_boot(self, mac: str) -> NextBoot:
        """AGENT for a machine that is not known (it registers), has a task, or has a disk that may be half-written."""
        machine = self._machines.find_by_mac(mac)
        if machine is None:
            return NextBoot(BootKind.AGENT, reason="not known yet: it registers")
        task = self._sessions.open_task(machine.id)
        if task is None:
            failed = self._sessions.failed_deploy(machine.id)
            if failed is not None:
                self._homecoming.forget(machine.id)
                reason = f"deploy {failed.image} failed: it waits for a new task"
                return NextBoot(BootKind.AGENT, machine.name, reason)
            return NextBoot(BootKind.LOCAL, machine.name, "no task")
        self._homecoming.forget(machine.id)
        version = f" version {task.version}" if task.version else ""
        return NextBoot(BootKind.AGENT, machine.name, f"{task.kind} {task.image}{version}")
