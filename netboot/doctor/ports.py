"""Checks that the ports of the appliance are its own: binds as it would, and names who is in the way."""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from netboot.config import CONTROL_PORTS, Mode
from netboot.doctor.findings import Finding, Notes
from netboot.doctor.subject import Subject
from netboot.services.interface import Interface

_PROC = Path("/proc")
_LISTENS = "0A"


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the appliance wants."""

    protocol: str
    number: int
    what: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A process with a socket."""

    pid: int
    name: str


def wanted_ports(subject: Subject) -> list[Port]:
    """All that the appliance binds at its start, in its mode."""
    ports = [Port("udp", 69, "TFTP"), Port("tcp", subject.settings.http_port, "HTTP")]
    if subject.mode is not Mode.OFF:
        ports.insert(0, Port("udp", 67, "DHCP"))
    if subject.mode in (Mode.PROXY, Mode.AUTO):
        ports.insert(1, Port("udp", 4011, "PXE"))
    return ports


def check_ports(subject: Subject) -> list[Finding]:
    """Each port is the appliance's, or free when none runs."""
    notes = Notes("ports")
    findings = []
    for interface in subject.interfaces:
        for port in wanted_ports(subject):
            findings.append(_one(subject, interface, port, notes))
    findings += _control_ports(subject, notes)
    return findings


def _one(subject: Subject, interface: Interface, port: Port, notes: Notes) -> Finding:
    name = f"{port.protocol.upper()} {port.number} ({port.what}) on {interface.name}"
    facts = {"interface": interface.name, "protocol": port.protocol, "port": port.number}
    try:
        _bind(interface, port)
    except PermissionError:
        return notes.note(f"{name} was not tried", "run this with sudo", **facts)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return notes.problem(f"{name} cannot be had: {error.strerror}", f"see `ip address show {interface.name}`")
    else:
        if subject.running is None:
            return notes.ok(f"{name} is free", **facts)
        return notes.problem(
            f"the appliance runs and does not hold {name}",
            f"see whether it serves {interface.name}: `roomcast config show`; start it again with that interface",
            **facts,
        )
    holders = find_holders(port.protocol, [port.number])
    names = sorted({f"{holder.name} (process {holder.pid})" for holder in holders})
    facts["holders"] = names
    if subject.running is not None and any(holder.pid == subject.running.pid for holder in holders):
        return notes.ok(f"{name} is the appliance's", **facts)
    if not holders:
        return notes.problem(
            f"{name} is held by a program that could not be found",
            "run this with sudo" if subject.running is None else f"`ss -lnp 'sport = :{port.number}'` as root",
            **facts,
        )
    return notes.problem(
        f"{name} is held by {' and '.join(names)}", f"stop {holders[0].name}, and keep it from starting again", **facts
    )


def _bind(interface: Interface, port: Port) -> None:
    """As the services do it; closed at once."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    with closing(socket.socket(socket.AF_INET, kind)) as sock:
        if port.protocol == "udp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = interface.address if port.number == 69 or port.protocol == "tcp" else IPv4Address(0)
        sock.bind((str(address), port.number))


def _control_ports(subject: Subject, notes: Notes) -> list[Finding]:
    """Sessions take one each, so a few in other hands are no harm; all of them are."""
    first = subject.settings.control_port_base
    numbers = range(first, first + CONTROL_PORTS)
    strangers = [h for h in find_holders("udp", numbers) if subject.running is None or h.pid != subject.running.pid]
    taken = len(used_ports("udp") & set(numbers))
    span = f"UDP {first} to {numbers[-1]} (casts)"
    if taken > CONTROL_PORTS // 2 and strangers:
        names = sorted({f"{holder.name} (process {holder.pid})" for holder in strangers})
        return [
            notes.warning(
                f"{taken} of {span} are taken, some by {', '.join(names[:5])}",
                "stop that program, or take other ports: `control-port-base` in the configuration",
            )
        ]
    return [notes.ok(f"{span}: {CONTROL_PORTS - taken} of {CONTROL_PORTS} are free")]


def find_holders(protocol: str, numbers: Sequence[int]) -> list[Holder]:
    """The processes that have an own socket on one of these ports in our network namespace; without root only ours."""
    inodes = {inode for number, inode in _sockets(protocol) if number in set(numbers)} - {"0"}
    found = []
    for process in _PROC.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            links = [str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()]
            if any(link.startswith("socket:[") and link[8:-1] in inodes for link in links):
                found.append(Holder(int(process.name), (process / "comm").read_text().strip()))
        except OSError:  # it ended, or is not ours to look at
            continue
    return found


def used_ports(protocol: str) -> set[int]:
    """Ports with a bound UDP socket or a listening TCP socket."""
    return {number for number, _ in _sockets(protocol)}


def _sockets(protocol: str) -> Iterator[tuple[int, str]]:
    """Port and inode of each, from /proc/net: columns as proc(5) tells."""
    for family in ("", "6"):
        try:
            lines = (_PROC / "net" / f"{protocol}{family}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and (protocol == "udp" or words[3] == _LISTENS):
                yield int(words[1].rpartition(":")[2], 16), words[9]
