"""What the doctor looks at: settings, interfaces, and the appliance that runs here, if one does."""

import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netboot.cli.client import ApplianceClient
from netboot.config import Mode, Settings, load_settings
from netboot.doctor.findings import Finding, Notes
from netboot.errors import NetbootError, ServiceError, UserError
from netboot.services.interface import Interface, find_interface

_UCRED = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Running:
    """An appliance that serves on this machine."""

    pid: int
    mode: Mode | None
    """None: it told one that we do not know."""
    version: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What every check is given."""

    settings: Settings
    interfaces: tuple[Interface, ...]
    """Those that exist and have an address."""
    running: Running | None
    listen_s: float
    """How long to listen for IGMP queries."""

    @property
    def mode(self) -> Mode:
        """What the running appliance says, else what is configured."""
        return (self.running and self.running.mode) or self.settings.mode

    def is_own(self, address: object) -> bool:
        return any(interface.address == address for interface in self.interfaces)


def find_subject(
    interfaces: Sequence[str], data: Path | None, api_socket: Path | None, config: Path | None, listen_s: float
) -> tuple[Subject, list[Finding]]:
    """Settings as `roomcast serve` would take them, with what is wrong with them. Never raises for what it finds."""
    notes = Notes("appliance")
    settings, findings = _settings(interfaces, data, api_socket, config, notes)
    running = None
    try:
        running = _running(settings.socket)
        if running is not None:
            told = f"Roomcast {running.version} runs here (process {running.pid}, mode {running.mode or 'unknown'})"
            findings.append(notes.ok(told, pid=running.pid, mode=running.mode and str(running.mode)))
    except NetbootError as error:
        findings.append(notes.problem(f"the appliance does not answer: {error}", "stop it and start it again"))
    except PermissionError:
        findings.append(
            notes.note(
                f"{settings.socket} is its owner's, so the running appliance was not asked", "run this with sudo"
            )
        )
    else:
        if running is None:
            findings.append(
                notes.warning(
                    f"no appliance runs here ({settings.socket} is missing)",
                    f"start it: `roomcast serve --interface {settings.interface}`",
                )
            )
    found = []
    for name in settings.interfaces:
        try:
            found.append(find_interface(name))
        except ServiceError as error:
            findings.append(_bad_interface(name, error))
    return Subject(settings, tuple(found), running, listen_s), findings


def _bad_interface(name: str, error: ServiceError) -> Finding:
    text, _, action = str(error).partition(": ")
    return Notes("interface").problem(text, action or "see `ip link`", interface=name)


def _settings(
    interfaces: Sequence[str], data: Path | None, api_socket: Path | None, config: Path | None, notes: Notes
) -> tuple[Settings, list[Finding]]:
    flags: dict[str, Any] = {"interfaces": tuple(interfaces) or None, "data": data, "socket": api_socket}
    try:
        return load_settings(flags, config), []
    except UserError as error:
        first = error
    candidates = _wired_interfaces()
    if not interfaces and candidates:
        try:
            settings = load_settings({**flags, "interfaces": candidates}, config)
        except UserError:
            pass
        else:
            text = f"no interface is configured, so all with an address are looked at: {', '.join(candidates)}"
            action = "name those of the machines: `roomcast doctor --interface eth1`"
            return settings, [notes.note(text, action, interfaces=list(candidates))]
    named = tuple(interfaces) or candidates or ("eth0",)
    settings = Settings(interfaces=named)
    settings = replace(settings, data=data or settings.data, socket=api_socket or settings.socket)
    return settings, [
        notes.problem(f"the configuration does not load: {first}", "mend it; defaults are looked at here")
    ]


def _wired_interfaces() -> tuple[str, ...]:
    found = []
    for _, name in socket.if_nameindex():
        try:
            find_interface(name)
        except ServiceError:
            continue
        found.append(name)
    return tuple(found)


def _running(path: Path) -> Running | None:
    """Raises ServiceError when something listens and gives no answer, PermissionError when we may not ask."""
    pid = _listener(path)
    if pid is None:
        return None
    with ApplianceClient(path) as appliance:
        status = appliance.get("/api/v1/status")
    try:
        mode = Mode(status.get("mode"))
    except ValueError:
        mode = None
    return Running(pid, mode, str(status.get("version", "")))


def _listener(path: Path) -> int | None:
    """The process that listens at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(os.fspath(path))
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
    pid: int = _UCRED.unpack(credentials)[0]
    return pid


Check = Callable[[Subject], list[Finding]]
