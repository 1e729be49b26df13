"""How machines become receivers of a session, and when it begins. Pure."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from imager.wire.messages import After, TaskKind
from netboot.deployment.records import Machine, NewTask
from netboot.errors import UserError

Key = TypeVar("Key", bound=Hashable)
MOST_RECEIVERS = 65535
"""A receiver's number has 16 bits and is not 0."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """Who of a session's receivers is here."""

    expected: int
    ready: int
    gone: int
    """Ended without being ready: cancelled or failed."""
    since_first_ready_s: float


@dataclass(frozen=True, slots=True)
class CastInterface:
    """An interface that sessions can be sent on."""

    name: str
    address: IPv4Address
    network: IPv4Network


def choose_interface(machines: Sequence[Machine], interfaces: Sequence[CastInterface]) -> CastInterface:
    """The one that all these machines are on, by the address that each registered from.

    A machine in none of the networks is behind a router, which may bring it any cast: the others decide, or the first
    interface. Raises UserError when the machines are on several: a session is sent on one.
    """
    machines_on = _machines_on(machines, interfaces)
    if len(machines_on) > 1:
        told = "; ".join(f"on {each.name}: {_few(names)}" for each, names in machines_on.items())
        raise UserError(
            f"a session is sent on one interface, and these machines are on several ({told}): "
            "deploy to those of each interface by a command of its own"
        )
    return next(iter(machines_on), interfaces[0])


def choose_interface_again(
    before: str, machines: Sequence[Machine], interfaces: Sequence[CastInterface]
) -> CastInterface:
    """Where a session goes on that was sent on the interface `before`: there, or where most of its machines are by now
    when that is served no longer. For the others see why_out_of_reach().
    """
    for interface in interfaces:
        if interface.name == before:
            return interface
    machines_on = _machines_on(machines, interfaces)
    return max(machines_on, key=lambda interface: len(machines_on[interface]), default=interfaces[0])


def _machines_on(machines: Sequence[Machine], interfaces: Sequence[CastInterface]) -> dict[CastInterface, list[str]]:
    machines_on: dict[CastInterface, list[str]] = {}
    for machine in machines:
        for interface in interfaces:
            if IPv4Address(machine.inventory.address) in interface.network:
                machines_on.setdefault(interface, []).append(machine.name)
    return machines_on


def why_out_of_reach(machine: Machine, sender: IPv4Address, interfaces: Sequence[CastInterface]) -> str:
    """Why a session that is sent from `sender` does not reach the machine where it is by now; empty when it may."""
    here = [each for each in interfaces if IPv4Address(machine.inventory.address) in each.network]
    if not here or sender in [each.address for each in here]:
        return ""
    there = [each.name for each in interfaces if each.address == sender]
    return (
        f"{machine.name} is on {here[0].name} by now ({machine.inventory.address}), and its session is sent on "
        f"{' '.join(there) or sender}: deploy to it again"
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def may_begin(attendance: Attendance, min_receivers: int, max_wait_s: float) -> bool:
    """Whether the first pass starts now; who comes later joins the running session.

    Everyone is ready, or as many as were asked for (`min_receivers`, 0: all), or the first of them waited long enough.
    """
    if attendance.ready == 0:
        return False
    if attendance.ready + attendance.gone >= attendance.expected:
        return True
    if min_receivers and attendance.ready >= min_receivers:
        return True
    return attendance.since_first_ready_s >= max_wait_s


def share_bitrate(total_bps: int, limits_bps: Mapping[Key, int]) -> dict[Key, int]:
    """What each cast may send at most, so that all together stay below a total; 0: no limit.

    Fair: a cast that may not use its equal part, by its own limit, leaves the rest of it to the others.
    """
    if not total_bps:
        return dict(limits_bps)
    shares: dict[Key, int] = {}
    left_bps = total_bps
    for number, limit_bps in sorted(limits_bps.items(), key=lambda item: item[1] or total_bps):
        part_bps = left_bps // (len(limits_bps) - len(shares))
        shares[number] = min(limit_bps or part_bps, part_bps) or 1
        left_bps -= shares[number]
    return shares


def plan_tasks(machines: Sequence[Machine], image: str, version: int, device: str, after: After) -> list[NewTask]:
    """One deploy task a machine, its receiver number counted from 1. Raises UserError for too many machines."""
    if len(machines) > MOST_RECEIVERS:
        raise UserError(f"{len(machines)} machines are too many for one session: the most is {MOST_RECEIVERS}")
    return [
        NewTask(machine.id, TaskKind.DEPLOY, image, after, version, device, receiver)
        for receiver, machine in enumerate(machines, start=1)
    ]
