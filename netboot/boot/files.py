"""The tree of files that a booting machine may fetch, by TFTP or HTTP.

A fixed table of names: nothing is looked up in a file system by what a machine sends, so no name leaves the tree. GRUB
configurations are rendered when they are asked for, from what the machine that asks shall do next.
"""

import re
import stat
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from netboot.boot import http_image
from netboot.boot.contexts import AgentContext, BootKind, FirstStageContext, LocalContext, NextBoot
from netboot.boot.render import Renderer
from netboot.boot.selection import BIOS_GRUB, UefiArch
from netboot.model import Ignored, Way

_LONGEST_PATH = 255
_AGENT = ("agent/vmlinuz", "agent/initrd.img")
_PRINTABLE = re.compile(r"[!-~]*")
_MACHINE = re.compile(
    r"grub/(?:machine-|grub\.cfg-01-)(?P<mac>[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5})(?P<arm64>-arm64)?(?P<cfg>\.cfg)?",
    re.IGNORECASE,
)

_CHAINLOAD_FAILED = re.compile(r"grub/failed-chainload-(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})\.cfg", re.IGNORECASE)
_HTTP_IMAGE = re.compile(r"uefi/http-(?:(?P<arch>ia32|aa64)-)?(?P<mac>[0-9a-f]{2}(?:-[0-9a-f]{2}){5})\.img")


class Transport(StrEnum):
    """How a file is fetched."""

    TFTP = "tftp"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class BootRequest:
    """Who asks for a file."""

    peer: IPv4Address
    mac: str | None
    """When the appliance knows it (by the lease of `peer`); lower case, colons."""
    transport: Transport


@dataclass(frozen=True, slots=True)
class BootContent:
    """A file of the tree."""

    content: bytes | Path
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class BootSettings:
    """What every configuration tells about the appliance."""

    server: IPv4Address
    """Of the served interface."""
    http_port: int
    key: str
    """Ed25519 public key that signs manifests: 64 hexadecimal digits, lower case."""
    serial: bool = False
    """GRUB speaks on the first serial port of a BIOS machine too; see LocalContext."""


class Ways(Protocol):
    """How machines without a task get to their own disk: see deployment/homecoming.py. May be shared by threads."""

    def choose(self, mac: str, *, has_agent: bool) -> Way | None:
        """What a machine that asks how to boot shall try; None: nothing worked. `has_agent`: there is one for it."""

    def way_failed(self, mac: str, way: Way, *, has_agent: bool) -> Way | None:
        """This way led nowhere: what it shall try in the same boot."""


class BootFiles:
    """The tree. Reads files and calls `next_boot`; may be shared by threads."""

    def __init__(
        self,
        *,
        boot_directory: Path,
        agent_directory: Path,
        renderer: Renderer,
        settings: BootSettings,
        next_boot: Callable[[str], NextBoot],
        on_told: Callable[[str, str, NextBoot], None] | None = None,
        ways: Ways | None = None,
        own_programs: Collection[str] = (),
    ) -> None:
        """`next_boot` is called with the MAC of a machine (lower case, colons) each time it asks what to boot.

        `on_told` hears (peer, MAC, what the machine is told) each time: for the boot log. It must not block. `ways`:
        None: GRUB starts the disk, and that is all. `own_programs`: names of the administrator's own programs, which
        are in `boot_directory`.
        """
        self._files = {
            **{name: boot_directory / name for name in own_programs},
            BIOS_GRUB: boot_directory / BIOS_GRUB,
            "agent/vmlinuz": agent_directory / "vmlinuz",
            "agent/initrd.img": agent_directory / "initrd.img",
        }
        for arch in UefiArch:
            for name in (arch.shim, arch.signed_grub, arch.own_grub):
                self._files[name] = boot_directory / name
            # Where shim 16 looks when the DHCP answer named its file in option 67 and left the `file` field empty.
            self._files[Path(arch.signed_grub).name] = boot_directory / arch.signed_grub
        self._roots = (boot_directory, agent_directory)
        self._http_images = boot_directory / "http"
        self._making_image = threading.Lock()
        self._disk_grub = {arch: boot_directory / arch.disk_grub for arch in UefiArch}
        self._renderer = renderer
        self._settings = settings
        self._next_boot = next_boot
        self._on_told = on_told
        self._ways = ways

    def open(self, path: str, request: BootRequest) -> BootContent | Ignored:
        """What `path` names for this machine, or why there is nothing: answer that as "not found".

        Raises TemplateError when an administrator's template cannot be rendered.
        """
        name = _normal(path)
        if isinstance(name, Ignored):
            return name
        if name == "grub/grub.cfg":
            return _rendered(self._renderer.render_grub(FirstStageContext()))
        if match := _MACHINE.fullmatch(name):
            arch = UefiArch.ARM64 if match["arm64"] else UefiArch.X64
            return self._machine(match["mac"].lower().replace("-", ":"), request, arch)
        if match := _CHAINLOAD_FAILED.fullmatch(name):
            return self._chainload_failed(match["mac"].lower(), request)
        if name == "grub/machine-.cfg":
            return self._machine(request.mac or "", request)
        if match := _HTTP_IMAGE.fullmatch(name):
            arch = UefiArch(match["arch"] or UefiArch.X64)
            return self._http_image(match["mac"].replace("-", ":"), arch, request)
        if name not in self._files:
            return Ignored(f"no such file: {name}")
        return self._regular_file(self._files[name])

    def _http_image(self, mac: str, arch: UefiArch, request: BootRequest) -> BootContent | Ignored:
        """A volume for this machine, equal for all that do the same: names nobody, so that few are kept."""
        step = self._step(mac, request, arch)
        letters = arch.upper()
        files = {
            f"EFI/BOOT/BOOT{letters}.EFI": self._files[arch.shim],
            f"EFI/BOOT/GRUB{letters}.EFI": self._disk_grub[arch],
        }
        if step.kind is BootKind.LOCAL:
            configuration = self._renderer.render_grub(LocalContext("", "", step.way))
        else:
            context = AgentContext(
                server=str(self._settings.server),
                http_port=self._settings.http_port,
                key=self._settings.key,
                mac="",
                machine="",
                reason="",
                arguments=step.arguments,
                in_image=True,
            )
            configuration = self._renderer.render_grub(context)
            files |= {name.upper(): self._files[name] for name in _AGENT}
        for file in files.values():
            if isinstance(found := self._regular_file(file), Ignored):
                return found
        try:
            with self._making_image:  # a room that asks at once waits for one volume
                return self._regular_file(http_image.build(self._http_images, configuration, files))
        except OSError as error:
            return Ignored(f"the volume for UEFI HTTP boot cannot be written: {error}")

    def _regular_file(self, file: Path) -> BootContent | Ignored:
        """A link, or a file behind a linked directory, is none of the tree's."""
        try:
            status = file.lstat()
            real = file.parent.resolve(strict=True)
        except OSError as error:
            return Ignored(f"{file}: {error.strerror}")
        if not stat.S_ISREG(status.st_mode):
            return Ignored(f"{file} is not a regular file")
        if not any(real.is_relative_to(root.resolve()) for root in self._roots):
            return Ignored(f"{file} leads out of the tree")
        return BootContent(file, status.st_size)

    def _why_no_agent(self, arch: UefiArch) -> str:
        if any(isinstance(self._regular_file(self._files[name]), Ignored) for name in _AGENT):
            return "no agent is built"
        return "there is no agent for ARM64" if arch is UefiArch.ARM64 else ""

    def _step(self, mac: str, request: BootRequest, arch: UefiArch, failed: Way | None = None) -> NextBoot:
        step = self._next_boot(mac) if mac else NextBoot(BootKind.LOCAL, reason="this machine did not tell its MAC")
        why_not = self._why_no_agent(arch)
        if step.kind is BootKind.AGENT and why_not:
            step = NextBoot(BootKind.LOCAL, step.machine, why_not)
        # Whoever asks for another machine's configuration says nothing of that machine's boot.
        if step.kind is BootKind.LOCAL and self._ways is not None and mac and request.mac in (None, mac):
            has_agent = not why_not
            if failed:
                way = self._ways.way_failed(mac, failed, has_agent=has_agent)
            else:
                way = self._ways.choose(mac, has_agent=has_agent)
            if way is Way.BOOTNEXT:
                step = NextBoot(BootKind.AGENT, step.machine, "no task: the agent has the firmware start the disk")
            else:
                step = replace(step, way=way)
        elif step.kind is BootKind.LOCAL and failed:
            step = replace(step, way=None)  # else its GRUB would try the same and ask the same for ever
        if self._on_told is not None:
            self._on_told(str(request.peer), mac, step)
        return step

    def _machine(self, mac: str, request: BootRequest, arch: UefiArch = UefiArch.X64) -> BootContent:
        return self._configuration(mac, self._step(mac, request, arch))

    def _chainload_failed(self, mac: str, request: BootRequest) -> BootContent:
        return self._configuration(mac, self._step(mac, request, UefiArch.X64, Way.CHAINLOAD))

    def _configuration(self, mac: str, step: NextBoot) -> BootContent:
        if step.kind is BootKind.LOCAL:
            tells = mac if self._ways is not None else ""
            local = LocalContext(step.machine, step.reason, step.way, tells, serial=self._settings.serial)
            return _rendered(self._renderer.render_grub(local))
        context = AgentContext(
            server=str(self._settings.server),
            http_port=self._settings.http_port,
            key=self._settings.key,
            mac=mac,
            machine=step.machine,
            reason=step.reason,
            arguments=step.arguments,
            serial=self._settings.serial,
        )
        return _rendered(self._renderer.render_grub(context))


def _normal(path: str) -> str | Ignored:
    """The name in the tree: slashes that GRUB and shim repeat are taken away, and nothing else is forgiven."""
    if len(path) > _LONGEST_PATH:
        return Ignored("a path of more than 255 characters")
    if not _PRINTABLE.fullmatch(path):
        return Ignored("a path with blanks, control or non-ASCII characters")
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") for part in parts):
        return Ignored("a path with dots")
    return "/".join(parts)


def _rendered(content: bytes) -> BootContent:
    return BootContent(content, len(content))
