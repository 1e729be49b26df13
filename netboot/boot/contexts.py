"""What each template is given: one frozen dataclass a template. Values only, checked when they are made.

A field is data: the template engine quotes it for the language of the template (see quoting.py).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from imager.disk.loaders import LOADERS
from imager.wire.messages import FirmwareKind
from netboot.model import Way

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_KEY = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[!-~]+")


class BootKind(StrEnum):
    """Where a machine's boot goes."""

    AGENT = "agent"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class NextBoot:
    """What a machine that asks for its GRUB configuration shall do."""

    kind: BootKind
    machine: str = ""
    """The machine's name for its console; empty when it is not known yet."""
    reason: str = ""
    """For the console, in plain words: `deploy debian-12 version 3`, `no task`."""
    arguments: tuple[str, ...] = ()
    """Further words of the agent's kernel command line, printable ASCII without blanks."""
    way: Way | None = Way.CHAINLOAD
    """LOCAL: how it gets there; None: no way worked, so it waits and asks again."""


@dataclass(frozen=True, slots=True)
class TemplateContext:
    """Base of all contexts. `template` is the name of the one template that takes it."""

    template: ClassVar[str]


@dataclass(frozen=True, slots=True)
class FirstStageContext(TemplateContext):
    """grub/grub.cfg, the same for every machine: asks for the configuration that names the machine."""

    template: ClassVar[str] = "grub/first-stage.cfg.j2"


@dataclass(frozen=True, slots=True)
class AgentContext(TemplateContext):
    """Boots the agent."""

    template: ClassVar[str] = "grub/agent.cfg.j2"

    server: str
    """IPv4 address of the appliance."""
    http_port: int
    key: str
    """Ed25519 public key that signs manifests: 64 hexadecimal digits."""
    mac: str
    """Lower case, colons; empty when the machine did not name it."""
    machine: str
    reason: str
    arguments: tuple[str, ...] = ()
    serial: bool = False
    """See LocalContext."""
    in_image: bool = False
    """Kernel and initramfs lie on the volume that GRUB itself came from (UEFI HTTP boot)."""

    def __post_init__(self) -> None:
        if self.mac and not _MAC.fullmatch(self.mac):
            raise ValueError(f"not a MAC: {self.mac!r}")
        if not _KEY.fullmatch(self.key):
            raise ValueError("the key is not 64 lower-case hexadecimal digits")
        for argument in self.arguments:
            if not _WORD.fullmatch(argument):
                raise ValueError(f"not one word of a kernel command line: {argument!r}")

    @property
    def command_line(self) -> tuple[str, ...]:
        """The words of the agent's kernel command line."""
        words = ["quiet", f"roomcast.server=http://{self.server}:{self.http_port}", f"roomcast.key={self.key}"]
        if self.mac:
            words.append("BOOTIF=01-" + self.mac.replace(":", "-"))
        return (*words, *self.arguments, "console=tty0", "console=ttyS0")


@dataclass(frozen=True, slots=True)
class LocalContext(TemplateContext):
    """Boots the machine's own disk."""

    template: ClassVar[str] = "grub/local.cfg.j2"

    machine: str
    reason: str
    way: Way | None = Way.CHAINLOAD
    """See NextBoot."""
    mac: str = ""
    """Of the machine, lower case, colons: for GRUB to tell the appliance that the way led nowhere. Empty: it cannot."""
    loaders: tuple[str, ...] = LOADERS
    """UEFI programs to look for, the first found is started."""
    serial: bool = False
    """On BIOS speak on the first serial port too. Off, because firmware that redirects its console there (UEFI does,
    and most servers' BIOS) would show everything twice."""

    def __post_init__(self) -> None:
        if self.mac and not _MAC.fullmatch(self.mac):
            raise ValueError(f"not a MAC: {self.mac!r}")


GrubContext = FirstStageContext | AgentContext | LocalContext


@dataclass(frozen=True, slots=True)
class UnattendContext(TemplateContext):
    """Answers for Windows 11 setup. Made by unattend.py, which checks what Windows would refuse."""

    template: ClassVar[str] = "unattend/windows-11.xml.j2"

    firmware: FirmwareKind
    computer_name: str
    locale: str
    """Language and region: en-GB."""
    keyboard: str
    """Input locale: a language tag or a layout such as 0809:00000809."""
    time_zone: str
    """A Windows name: `GMT Standard Time`."""
    administrator: str
    """Name of the local account in group Administrators."""
    encoded_password: str
    """As Windows wants it with PlainText false; empty: no password."""
    organization: str
    product_key: str
    """Empty: none is asked for."""
    image_index: int
    """Which image of install.wim, from 1."""
    disk: int
    """Number of the disk, from 0. It is wiped."""
    windows_partition: int
    """Number of the partition that gets Windows."""


CONTEXTS: tuple[type[TemplateContext], ...] = (FirstStageContext, AgentContext, LocalContext, UnattendContext)
