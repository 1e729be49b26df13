"""Checks for an IGMP or MLD querier: switches with snooping forget who wants a cast when nobody asks.

Queries come every 125 s, which nobody waits for. So a group that nobody uses is joined and left: a querier that hears
the leaving asks at once whether somebody else is still in it (RFC 2236, section 3; RFC 3376, section 6.4.2; RFC 3810,
section 7.6.3).
"""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from imager.transport.group_socket import Membership, family_of
from netboot.doctor.findings import Finding, Notes
from netboot.doctor.subject import Subject
from netboot.errors import ServiceError
from netboot.services.capture import Capture
from netboot.services.group_queries import Address, QueryWay, query_way
from netboot.services.interface import Interface

ROUNDS = 2
_JOINED_S = 0.4
_BRIDGES = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Querier:
    """Who asked."""

    address: Address
    mac: str
    version: int
    is_own: bool


def listen(interface: Interface, group: Address, seconds: float) -> list[Querier]:
    """Everybody who asked within `seconds`, with `group` joined and left meanwhile: in its IP version.

    Raises PermissionError, OSError, and ServiceError when the interface has no address of it.
    """
    way = query_way(interface, group)
    found: dict[tuple[Address, str], Querier] = {}
    with Capture(interface.name, way.program, promiscuous=False) as capture:
        began = time.monotonic()
        for _ in range(ROUNDS):
            with socket.socket(family_of(str(group)), socket.SOCK_DGRAM) as sock:
                membership = Membership(sock, str(group), way.own_on(interface))
                membership.join()
                _gather(capture, way, time.monotonic() + _JOINED_S, found)
                membership.leave()
            _gather(capture, way, began + seconds if found else time.monotonic() + seconds / ROUNDS, found)
    return list(found.values())


def _gather(capture: Capture, way: QueryWay, deadline: float, found: dict[tuple[Address, str], Querier]) -> None:
    while (got := capture.read(deadline)) is not None:
        query = way.read(got[0])
        if query is not None:
            mac = query.mac.hex(":")
            found[query.source, mac] = Querier(query.source, mac, query.version, got[1])


@dataclass(frozen=True, slots=True)
class _Words:
    """What differs between the two protocols for a person."""

    protocol: str
    best: str
    """Its version that switches should speak."""
    bridge_version: str
    """A setting of Linux's bridge."""


_IGMP = _Words("IGMP", "IGMPv3", "mcast_igmp_version 3")
_MLD = _Words("MLD", "MLDv2", "mcast_mld_version 2")


def check_igmp(subject: Subject) -> list[Finding]:
    """A querier on each interface's network; where this machine is the snooping switch itself, what it is set to.

    Nothing where casts are by IPv6.
    """
    group = subject.settings.cast_network[-2]
    return _check(subject, group, _IGMP) if group.version == 4 else []


def check_mld(subject: Subject) -> list[Finding]:
    """The same where casts are by IPv6."""
    group = subject.settings.cast_network[-2]
    return _check(subject, group, _MLD) if group.version == 6 else []


def _check(subject: Subject, group: Address, words: _Words) -> list[Finding]:
    notes = Notes(words.protocol.lower())
    findings = []
    for interface in subject.interfaces:
        try:
            queriers = listen(interface, group, subject.listen_s)
        except PermissionError:
            findings.append(notes.note(f"{interface.name} was not listened to: needs root", "run this with sudo"))
            continue
        except OSError as error:
            findings.append(notes.note(f"{interface.name} was not listened to: {error.strerror}", "see `interface`"))
            continue
        except ServiceError as error:
            findings.append(notes.problem(f"no cast leaves: {error}", "or set a `cast-network` of IPv4"))
            continue
        findings += _judge(interface.name, queriers, subject.listen_s, notes, words)
    return findings


def _judge(name: str, queriers: list[Querier], seconds: float, notes: Notes, words: _Words) -> list[Finding]:
    if queriers:
        return [
            notes.ok(
                f"{name}: {q.address} ({q.mac}) asks who wants multicast, by {words.protocol}v{q.version}",
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
                f"{name} is a bridge of this machine that snoops {words.protocol} and has no querier: it forgets after "
                "some minutes who wants a cast",
                f"`ip link set {name} type bridge mcast_querier 1 {words.bridge_version}`",
                interface=name,
            )
        ]
    return [
        notes.note(
            f"{name}: nobody asked who wants multicast within {seconds:.0f} s, also not when a group was left",
            f"if the switches snoop {words.protocol}, enable an {words.best} querier in the machines' VLAN (switch or "
            "router), or set `querier = true` here: without one casts stop after some minutes; switches that do not "
            "snoop need none",
            interface=name,
        )
    ]


def _bridge_setting(name: str, setting: str) -> str:
    try:
        return (_BRIDGES / name / "bridge" / setting).read_text().strip()
    except OSError:
        return ""
