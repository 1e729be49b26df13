"""What the appliance knows of machines, sessions and tasks, as values. Pure.

Times are Unix seconds.
"""

from dataclasses import dataclass

from imager.wire.messages import After, Inventory, Proof, TaskKind
from imager.wire.session import SlowPolicy
from netboot.model import SessionState, TaskState, Way

EVERY_MACHINE = "all"
"""The group that each machine belongs to; no other may have its name."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer we know."""

    id: int
    name: str
    """A host name: lower-case letters, digits, dashes."""
    inventory: Inventory
    """As its agent told last."""
    groups: tuple[str, ...]
    registered_s: float
    seen_s: float
    """When its agent registered last."""
    boot_way: Way | None = None
    """To its disk, as an administrator set it; None: what works on its model."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that is to be opened."""

    number: int
    """In every packet, 32 bits."""
    image: str
    version: int
    manifest_hash: str
    group: str
    data_port: int
    min_receivers: int
    """0: all."""
    max_wait_s: float
    max_bitrate_bps: int
    """0: no limit."""
    slow: SlowPolicy
    floor_bps: int
    """Below it a machine is slow; 0: when it takes much less than the others."""
    unicast: bool
    """Nothing is cast: each machine fetches its chunks."""
    interface: str
    """Of ours, that it is sent on."""


@dataclass(frozen=True, slots=True)
class Session:
    """One multicast sending of one image version."""

    id: int
    number: int
    image: str
    version: int
    manifest_hash: str
    group: str
    data_port: int
    min_receivers: int
    max_wait_s: float
    max_bitrate_bps: int
    slow: SlowPolicy
    floor_bps: int
    unicast: bool
    interface: str
    """Empty: an older Roomcast opened it."""
    state: SessionState
    created_s: float
    ended_s: float | None
    statistics: dict[str, float]
    """What the sender counted; empty until it ended."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is to be given."""

    machine_id: int
    kind: TaskKind
    image: str
    after: After
    version: int = 0
    device: str = ""
    """Target or source; empty: the machine's only disk."""
    receiver: int = 0
    """Number in the session, from 1."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What a machine shall do, does, or did."""

    id: int
    machine_id: int
    machine: str
    """Its name."""
    session_id: int | None
    kind: TaskKind
    image: str
    version: int
    """0 for a capture that is not published."""
    device: str
    receiver: int
    after: After
    state: TaskState
    created_s: float
    started_s: float | None
    ended_s: float | None
    error: str
    log: tuple[str, ...]
    proof: Proof | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in words."""

    id: int
    at_s: float
    session_id: int | None
    machine_id: int | None
    task_id: int | None
    text: str
