"""What a step of a task gets to work with. Types only: who builds the parts is main.py."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imager.agent.client import ApplianceClient, TaskGone
from imager.agent.inventory import Link
from imager.agent.progress import Meter
from imager.wire.messages import Disk, FirmwareKind


@dataclass(frozen=True, slots=True)
class TaskContext:
    """One running task's surroundings."""

    task_id: int
    client: ApplianceClient
    meter: Meter
    say: Callable[[str], None]
    """A line of the log."""
    link: Link
    firmware: FirmwareKind
    disks: Callable[[], Sequence[Disk]]
    """The machine's disks as they are now."""
    public_key: bytes | None
    """Of the signer of manifests, from the kernel command line; None when the appliance gave none."""
    system_uuid: str = ""
    """From SMBIOS; empty when the firmware tells none."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when the appliance no longer wants the task."""

    def check_wanted(self) -> None:
        """Raises TaskGone when the task was ended from outside. Call it often: it costs nothing."""
        if self.gone.is_set():
            raise TaskGone("the appliance ended this task")
