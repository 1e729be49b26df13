"""Check for an IGMP querier: switches with snooping forget who wants a cast when nobody asks.

Queries come every 125 s, which nobody waits for. So a group that nobody uses is joined and left: a querier that hears
the leaving asks at once whether somebody else is still in it (RFC 2236, section 3; RFC 3376, section 6.4.2).
"""

import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from netboot.doctor.findings import Finding, Notes
from netboot.doctor.subject import Subject
from netboot.services.capture import IGMP, Capture
from netboot.services.interface import Interface
from netboot.wire.igmp import read_query

ROUNDS = 2
_JOINED_S = 0.4
_BRIDGES = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Querier:
    """Who asked."""

    address: IPv4Address
    mac: str
    version: int
    is_own: bool


def listen(interface: Interface, group: IPv4Address, seconds: float) -> list[Querier]:
    """Everybody who asked within `seconds`, with `group` joined and left meanwhile. Raises PermissionError, OSError."""
    found: dict[tuple[IPv4Address, str], Querier] = {}
    membership = group.packed + interface.address.packed
    with Capture(interface.name, IGMP, promiscuous=False) as capture:
        began = time.monotonic()
        for _ in range(ROUNDS):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                _gather(capture, time.monotonic() + _JOINED_S, found)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)
            _gather(capture, began + seconds if found else time.monotonic() + seconds / ROUNDS, found)
    return list(found.values())


def _gather(capture: Capture, deadline: float, found: dict[tuple[IPv4Address, str], Querier]) -> None:
    while (got := capture.read(deadline)) is not None:
        query = read_query(got[0])
        if query is not None:
            mac = query.mac.hex(":")
            found[query.source, mac] = Querier(query.source, mac, query.version, got[1])


def check_igmp(subject: Subject) -> list[Finding]:
    """A querier on each interface's network; where this machine is the snooping switch itself, what it is set to."""
    notes = Notes("igmp")
    findings = []
    group = subject.settings.cast_network[-2]
    for interface in subject.interfaces:
        try:
            queriers = listen(interface, group, subject.listen_s)
        except PermissionError:
            findings.append(notes.note(f"{interface.name} was not listened to: needs root", "run this with sudo"))
            continue
        except OSError as error:
            findings.append(notes.note(f"{interface.name} was not listened to: {error.strerror}", "see `interface`"))
            continue
        findings += _judge(interface.name, queriers, subject.listen_s, notes)
    return findings


def _judge(name: str, queriers: list[Querier], seconds: float, notes: Notes) -> list[Finding]:
    if queriers:
        return [
            notes.ok(
                f"{name}: {q.address} ({q.mac}) asks who wants multicast, by IGMPv{q.version}",
                interface=name,
                querier=str(q.address),
                mac=q.mac,
                version=q.version,
            )
            for q in queriers
        ]
    if _bridge_setting(name, "multicast_snooping") == "1" and _bridge_setting(name, "multicast_querier") == "0":
        return [
            notes.warning(
                f"{name} is a bridge of this machine that snoops IGMP and has no querier: it forgets after some "
                "minutes who wants a cast",
                f"`ip link set {name} type bridge mcast_querier 1 mcast_igmp_version 3`",
                interface=name,
            )
        ]
    return [
        notes.note(
            f"{name}: nobody asked who wants multicast within {seconds:.0f} s, also not when a group was left",
            "if the switches snoop IGMP, enable an IGMPv3 querier in the machines' VLAN (switch or router), or set "
            "`querier = true` here: without one casts stop after some minutes; switches that do not snoop need none",
            interface=name,
        )
    ]


def _bridge_setting(name: str, setting: str) -> str:
    try:
        return (_BRIDGES / name / "bridge" / setting).read_text().strip()
    except OSError:
        return ""
