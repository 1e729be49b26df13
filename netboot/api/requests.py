"""What an administrator's program may send: shapes and ranges."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from imager.wire.messages import After
from imager.wire.session import SlowPolicy

MOST_TARGETS = 10_000
MOST_BPS = 10**12

MachineName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A host name, one label: it becomes the machine's own."""
GroupName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
TargetName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
"""A machine's name or MAC, or a group's name."""
Device = Annotated[str, StringConstraints(max_length=200)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RenameRequest(_Request):
    name: MachineName


class BootWayRequest(_Request):
    way: Literal["auto", "chainload", "bootnext", "exit"]


class GroupsRequest(_Request):
    add: Annotated[list[GroupName], Field(max_length=100)] = []
    remove: Annotated[list[GroupName], Field(max_length=100)] = []


class MembersRequest(_Request):
    machines: Annotated[list[TargetName], Field(min_length=1, max_length=MOST_TARGETS)]
    remove: bool = False
    """Take them out instead."""


class DeployRequest(_Request):
    image: ImageName
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    to: Annotated[list[TargetName], Field(min_length=1, max_length=MOST_TARGETS)]
    target: Device = ""
    min_receivers: Annotated[int, Field(ge=0, le=MOST_TARGETS)] = 0
    max_wait_s: Annotated[float, Field(ge=0, le=86400)] | None = None
    max_bitrate_bps: Annotated[int, Field(ge=0, le=MOST_BPS)] = 0
    slow: SlowPolicy = SlowPolicy.DEMOTE
    """What becomes of machines that are slower than the others."""
    floor_bps: Annotated[int, Field(ge=0, le=MOST_BPS)] = 0
    """Below it a machine is slow; 0: when it takes much less than the others."""
    unicast: bool | None = None
    """Cast nothing: each machine fetches its chunks. None: as the settings say."""
    after: After = After.REBOOT


class CaptureRequest(_Request):
    machine: TargetName
    image: ImageName
    source: Device = ""
    after: After = After.STAY


class RenderRequest(_Request):
    machine: TargetName


class LibraryRequest(_Request):
    """A file or device of the appliance itself that becomes an image."""

    source: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    name: ImageName


class VerifyRequest(_Request):
    version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
