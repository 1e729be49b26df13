"""What agent and appliance say to each other: JSON over HTTP, versioned by the path (`/agent/v1`).

Pure: no I/O. Every message is a frozen dataclass; `encode` and `decode` are its only codec, and `decode` raises
MessageError and nothing else. Unknown fields are ignored, so that an older agent understands a newer appliance.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from imager.errors import MessageError

Message = TypeVar("Message")

REGISTER = "/agent/v1/register"
"""POST Inventory, answered by Registration. The only path without a token."""
TASK = "/agent/v1/task"
"""GET `?wait=SECONDS`, answered by Task; kind `wait` when nothing came in that time."""
PROGRESS = "/agent/v1/tasks/{task_id}/progress"
"""POST Progress, answered by 204, or by ProgressAnswer when there is something to do; 410 when the task was cancelled
and the agent must stop it."""
RESULT = "/agent/v1/tasks/{task_id}/result"
"""POST TaskResult, answered by 204."""
MANIFEST = "/agent/v1/tasks/{task_id}/manifest"
"""GET, answered by the signed manifest (application/octet-stream)."""
READY = "/agent/v1/tasks/{task_id}/ready"
"""POST a bitmap (application/octet-stream): bit i, most significant first, is set when chunk i is lacking;
answered by Admission. Who says it again, with what it lacks by then, is admitted anew; with `?unheard=true`, because no
cast reaches it, it is told to fetch its chunks."""
CHUNK = "/agent/v1/tasks/{task_id}/chunks/{hash}"
"""Of a deployment: GET the stored chunk. Of a capture: HEAD: 200 when the appliance holds this chunk, else 404; PUT the
compressed chunk: 204."""
PUBLISH = "/agent/v1/tasks/{task_id}/publish"
"""POST the unsigned manifest; the appliance checks that it holds every chunk, signs, and publishes; 204."""


class FirmwareKind(StrEnum):
    """What started the machine."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a machine."""

    device: str
    """As the agent's kernel names it: /dev/sda."""
    model: str
    serial: str
    size_bytes: int
    logical_sector_bytes: int
    bus: str
    """sata, nvme, virtio, usb, scsi or unknown."""
    removable: bool


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface of a machine."""

    name: str
    mac: str
    """Lower case, colons."""
    driver: str
    speed_mbps: int
    """0 when unknown."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What an agent says of its machine when it registers."""

    agent_version: str
    boot_mac: str
    """MAC of the interface that reaches the appliance."""
    address: str
    """IPv4 address of that interface."""
    system_uuid: str
    """SMBIOS UUID, lower case; empty when the firmware tells none."""
    serial: str
    manufacturer: str
    product: str
    cpu_model: str
    cpu_count: int
    memory_bytes: int
    firmware: FirmwareKind
    secure_boot: bool
    boot_s: float
    """Seconds from the kernel's start to this message."""
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]


@dataclass(frozen=True, slots=True)
class Registration:
    """The appliance's answer to an Inventory."""

    machine_id: int
    name: str
    token: str
    """Sent as `Authorization: Bearer` with every further request; a new registration ends it."""


class TaskKind(StrEnum):
    """What a machine shall do next."""

    WAIT = "wait"
    DEPLOY = "deploy"
    CAPTURE = "capture"
    BOOT_LOCAL = "boot_local"


class After(StrEnum):
    """What the agent does when its task succeeded. A failed task leaves the agent waiting."""

    REBOOT = "reboot"
    POWEROFF = "poweroff"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class CastAddress:
    """Where one receiver of a cast listens and talks to. For one receiving: who comes again is admitted anew."""

    session: int
    """32-bit number in every packet of the cast."""
    receiver: int
    """16-bit number of this receiver in the cast."""
    group: str
    """Multicast group of SOURCE, REPAIR and BEACON."""
    data_port: int
    sender: str
    """Address for what the receiver says, of the group's IP version; one of the link names no interface."""
    control_port: int
    packet_bytes: int
    """Length of every datagram to the group."""
    cast_key: str = field(repr=False)
    """Hexadecimal, 32 bytes: seals what goes to the group. A secret of the cast's receivers."""
    control_key: str = field(repr=False)
    """Hexadecimal, 32 bytes: seals what this receiver and the sender say to each other. A secret of these two."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The appliance's answer to a machine that is ready."""

    cast: CastAddress | None = None
    """Where the lacking chunks come from; None when none is lacking."""
    unicast: bool = False
    """There is no cast for this machine: it fetches its chunks."""
    reason: str = ""
    """Of an unusual way, for a person."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes one machine differ from the others of its image."""

    hostname: str
    """Empty: the image's hostname stays."""
    new_machine_id: bool = True
    new_host_keys: bool = True


@dataclass(frozen=True, slots=True)
class DeployTask:
    """Write one image version to a disk of this machine, received by a session."""

    image: str
    version: int
    manifest_hash: str
    """BLAKE3 of the manifest without its signature, hexadecimal."""
    target: str
    """Device, or empty: the machine's only disk that is not removable."""
    identity: Identity
    after: After


@dataclass(frozen=True, slots=True)
class CaptureTask:
    """Read a disk of this machine into the next version of an image."""

    image: str
    source: str
    """Device, or empty: the machine's only disk that is not removable."""
    after: After


@dataclass(frozen=True, slots=True)
class Task:
    """The next thing to do. The field named as the kind is set, the others are None."""

    id: int
    kind: TaskKind
    deploy: DeployTask | None = None
    capture: CaptureTask | None = None
    boot_next: bool = False
    """BOOT_LOCAL: have the UEFI firmware start the disk, by BootNext; stay in the agent when that cannot be."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is. Sent at least every 5 s: it is the heartbeat too."""

    step: str
    """preflight, scan, receive, verify, customise, capture, upload, reboot."""
    done_bytes: int
    total_bytes: int
    rate_bytes_s: float
    chunks_done: int = 0
    chunks_total: int = 0
    cast: int = 0
    """The number of the cast that it listens to; 0: none."""
    note: str = ""
    """What is unusual, for a person."""


@dataclass(frozen=True, slots=True)
class ProgressAnswer:
    """What the appliance says to a heartbeat."""

    again: bool = False
    """The cast that the machine listens to is over, or not of this appliance: it says READY again."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What holds on the disk, and what it took."""

    manifest_hash: str
    disk_serial: str
    chunks_verified: int
    """Chunks whose hash was read back from the disk."""
    chunks_skipped: int
    """Of these: held by the disk before the session."""
    received_bytes: int
    """UDP payload of DATA and REPAIR that arrived."""
    repair_packets: int
    lost_packets: int
    phases_s: dict[str, float]
    """Seconds of each step, in order."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended."""

    ok: bool
    error: str
    """One line for a person; empty when ok."""
    log: tuple[str, ...]
    """The agent's last log lines."""
    proof: Proof | None = None


def encode(message: Any) -> bytes:
    """The message as UTF-8 JSON."""
    return json.dumps(dataclasses.asdict(message), separators=(",", ":")).encode()


def decode(kind: type[Message], data: bytes) -> Message:
    """Parse and check `data` as one `kind`. Raises MessageError with the path of the wrong field."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from error
    return typing.cast(Message, _build(kind, tree, kind.__name__))


def _build(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise MessageError(f"{where}: a list is wanted")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise MessageError(f"{where}: an object is wanted")
        return {str(key): _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise MessageError(f"{where}: an object is wanted")
        hints = typing.get_type_hints(kind)
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            if field.name in value:
                fields[field.name] = _build(hints[field.name], value[field.name], f"{where}.{field.name}")
            elif field.default is dataclasses.MISSING:
                raise MessageError(f"{where}.{field.name}: missing")
        return kind(**fields)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError as error:
            raise MessageError(f"{where}: {error}") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MessageError(f"{where}: {kind.__name__} is wanted")
    return value
