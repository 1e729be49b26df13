"""What a step of a task gets to work with. Types only: who builds the parts is main.py."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imager.agent.client import ApplianceClient, TaskGone
from imager.agent.inventory import Link
from imager.agent.progress import Meter
from imager.errors import CastError
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
    cast_over: threading.Event = field(default_factory=threading.Event)
    """Set when the appliance says that the cast which is listened to is over."""

    def check_wanted(self) -> None:
        """Raises TaskGone when the task was ended from outside. Call it often: it costs nothing."""
        if self.gone.is_set():
            raise TaskGone("the appliance ended this task")

    def listen(self, cast: int) -> None:
        """The number of the cast that is listened to from now on; 0: none."""
        self.meter.listen(cast)
        self.cast_over.clear()

    def check_cast(self) -> None:
        """As check_wanted, and raises CastError when the cast is over."""
        self.check_wanted()
        if self.cast_over.is_set():
            raise CastError("the sender of this cast is gone")
