"""Runs the doctor's checks: those that wait on the network beside each other, the rest in turn."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from netboot.doctor.dhcp_probe import DhcpProbe
from netboot.doctor.files import check_agent, check_files
from netboot.doctor.findings import Finding, Notes
from netboot.doctor.firewall_check import check_firewall
from netboot.doctor.host import check_clock, check_disk, check_limits
from netboot.doctor.igmp import check_igmp, check_mld
from netboot.doctor.link import check_interfaces, check_mtu
from netboot.doctor.offers import Asked, judge
from netboot.doctor.ports import check_ports
from netboot.doctor.subject import Subject
from netboot.errors import UserError

APPLIANCE = "appliance"
"""Findings about settings and the running appliance: made while the subject is found."""
INTERFACE = "interface"

_PLAIN: dict[str, Callable[[Subject], list[Finding]]] = {
    INTERFACE: check_interfaces,
    "mtu": check_mtu,
    "ports": check_ports,
    "firewall": check_firewall,
    "igmp": check_igmp,
    "mld": check_mld,
    "disk": check_disk,
    "clock": check_clock,
    "limits": check_limits,
    "agent": check_agent,
}
CHECKS = (APPLIANCE, *_PLAIN, "dhcp", "files")
"""In the order in which they are told."""


def choose_checks(only: Sequence[str]) -> tuple[str, ...]:
    """The named ones, or all. Raises UserError for a name that is none."""
    for name in only:
        if name not in CHECKS:
            raise UserError(f"there is no check {name!r}: choose of {', '.join(CHECKS)}")
    return tuple(name for name in CHECKS if not only or name in only)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Of DHCP: what each interface answered, and why others could not be asked."""

    asked: tuple[Asked, ...]
    failed: tuple[Finding, ...]


def examine(subject: Subject, before: Sequence[Finding], checks: Sequence[str]) -> Iterator[list[Finding]]:
    """The findings of each check, as soon as it and those before it are done.

    `before`: what was found with the subject; it is told under its own names. A check that fails is a finding itself.
    """
    with ThreadPoolExecutor(3, thread_name_prefix="doctor") as pool:
        answers: Future[_Answers] | None = None
        if "dhcp" in checks or "files" in checks:
            answers = pool.submit(_ask, subject)
        started = {name: pool.submit(_guarded, name, _PLAIN[name], subject) for name in checks if name in _PLAIN}
        for name in checks:
            known = [finding for finding in before if finding.check == name]
            if name in started:
                yield known + started[name].result()
            elif name == "dhcp" and answers is not None:
                yield known + _dhcp(subject, answers.result())
            elif name == "files" and answers is not None:
                asked = answers.result().asked
                yield known + _guarded(name, partial(check_files, asked=asked), subject)
            else:
                yield known


def _ask(subject: Subject) -> _Answers:
    notes = Notes("dhcp")
    asked: list[Asked] = []
    failed: list[Finding] = []
    for interface in subject.interfaces:
        try:
            asked.append(DhcpProbe(interface, random.SystemRandom()).ask())
        except PermissionError:
            failed.append(notes.note(f"{interface.name} was not asked: needs root", "run this with sudo"))
        except OSError as error:
            failed.append(notes.problem(f"{interface.name} cannot be asked: {error.strerror}", "see `interface`"))
    return _Answers(tuple(asked), tuple(failed))


def _dhcp(subject: Subject, answers: _Answers) -> list[Finding]:
    findings = list(answers.failed)
    for asked in answers.asked:
        findings += judge(asked, subject.mode, running=subject.running is not None)
    return findings


def _guarded(name: str, check: Callable[[Subject], list[Finding]], subject: Subject) -> list[Finding]:
    """The boundary of a check: one that cannot be made does not take the others with it."""
    try:
        return check(subject)
    except Exception as error:
        text = f"this was not looked at: {type(error).__name__}: {error}"
        return [Notes(name).note(text, "please report it, with the output of `roomcast doctor --json`")]
