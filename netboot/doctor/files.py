"""Checks of boot files: there, readable, and what a machine gets when it fetches them is what is there."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from netboot.boot.grub_images import DebianFiles
from netboot.boot.selection import BIOS_GRUB, UEFI_GRUB, UEFI_SHIM
from netboot.doctor.fetch import (
    SMALL_BLOCK_BYTES,
    Fetched,
    NotFetched,
    fetch_http,
    fetch_tftp,
    read_expected,
)
from netboot.doctor.findings import Finding, Notes, quoted
from netboot.doctor.offers import Asked
from netboot.doctor.subject import Subject

SLOW_BYTES_PER_S = 1e6
SLOW_FROM_BYTES = 100_000
"""The rate of a shorter file says nothing."""
MOST_FILES = 12
AGENT_FILES = ("agent/vmlinuz", "agent/initrd.img")
GRUB_CONFIGURATION = "grub/grub.cfg"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch."""

    server: str
    """Address, with a port for HTTP if it is not 80."""
    name: str
    """Path, or the whole URL. May be a stranger's text."""
    by_http: bool
    expected: Path | None = None
    """The same file on this machine."""


def check_agent(subject: Subject) -> list[Finding]:
    """Kernel and initramfs of the agent."""
    notes = Notes("agent")
    files = [subject.settings.agent / "vmlinuz", subject.settings.agent / "initrd.img"]
    bad = [reason for file in files if (reason := unusable(file))]
    if bad:
        if any("ermission" in reason for reason in bad) and os.geteuid() != 0:
            return [notes.note("; ".join(bad), "run this with sudo")]
        return [notes.problem("no agent to boot: " + "; ".join(bad), "`roomcast agent build`")]
    total = sum(file.stat().st_size for file in files)
    return [notes.ok(f"the agent is built: kernel and initramfs have {total / 1e6:.1f} MB", bytes=total)]


def unusable(file: Path) -> str:
    """Why a file cannot be served; empty when it can."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{file} is not a regular file"
        if not status.st_size:
            return f"{file} is empty"
        with file.open("rb"):
            return ""
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as error:
        return f"{file}: {error.strerror}"


def check_files(subject: Subject, asked: Sequence[Asked]) -> list[Finding]:
    """The boot programs on the disk, then what is offered and what this machine serves, fetched."""
    notes = Notes("files")
    findings = _on_disk(subject, notes)
    for wanted in list(dict.fromkeys(_wanted(subject, asked)))[:MOST_FILES]:
        findings.append(_fetch(wanted, notes))
    return findings


def _on_disk(subject: Subject, notes: Notes) -> list[Finding]:
    missing = sorted({package for file, package in DebianFiles().needed() if not file.is_file()})
    if missing:
        return [
            notes.problem(
                f"boot programs cannot be made: {', '.join(missing)} not installed",
                f"`apt install {' '.join(missing)}`",
            )
        ]
    names = (BIOS_GRUB, UEFI_SHIM, UEFI_GRUB, "uefi/grubx64.efi")
    directories = [subject.settings.boot_of(interface.name) for interface in subject.interfaces]
    bad = [reason for each in directories for name in names if (reason := unusable(each / name))]
    if not bad:
        return [notes.ok(f"the boot programs are in {', '.join(map(str, directories))}")]
    if any("ermission" in reason for reason in bad) and os.geteuid() != 0:
        return [notes.note("; ".join(bad), "run this with sudo")]
    if subject.running is None:
        return [notes.note("boot programs are not made yet", "`roomcast serve` makes them when it starts")]
    return [
        notes.problem(
            "boot programs are gone: " + "; ".join(bad), "start `roomcast serve` again: it makes them when it starts"
        )
    ]


def _wanted(subject: Subject, asked: Sequence[Asked]) -> Iterator[Wanted]:
    settings = subject.settings
    for answers in asked:
        boot = settings.boot_of(answers.interface)
        for offer in answers.offers:
            if not offer.boot_file:
                continue
            url = _http_url(offer.boot_file)
            if url is not None:
                path = url.path.lstrip("/").removeprefix("boot/")
                own = _is_own_host(subject, url.hostname or "")
                expected = _expected(boot, settings.agent, path) if own else None
                yield Wanted(url.netloc, offer.boot_file, True, expected)
                continue
            own = subject.is_own(offer.boot_server)
            expected = _expected(boot, settings.agent, offer.boot_file) if own else None
            yield Wanted(str(offer.boot_server), offer.boot_file, False, expected)
    if subject.running is None:
        return
    for interface in subject.interfaces:
        port = "" if settings.http_port == 80 else f":{settings.http_port}"
        host = f"{interface.address}{port}"
        yield Wanted(str(interface.address), GRUB_CONFIGURATION, False)
        for name in (BIOS_GRUB, *AGENT_FILES):
            expected = _expected(settings.boot_of(interface.name), settings.agent, name)
            if expected is not None:
                yield Wanted(host, f"http://{host}/boot/{name}", True, expected)


def _http_url(name: str) -> SplitResult | None:
    """None for what is no URL of HTTP: a name for TFTP."""
    if not name.lower().startswith("http://"):
        return None
    try:
        return urlsplit(name)
    except ValueError:
        return None


def _is_own_host(subject: Subject, host: str) -> bool:
    try:
        return subject.is_own(IPv4Address(host))
    except AddressValueError:
        return False


def _expected(boot: Path, agent: Path, name: str) -> Path | None:
    """The file of this machine that a name of the tree stands for: by a list, never by what the name says."""
    known = {name: boot / name for name in (BIOS_GRUB, UEFI_SHIM, UEFI_GRUB)}
    known.update({name: agent / Path(name).name for name in AGENT_FILES})
    file = known.get(name.lstrip("/"))
    return file if file is not None and file.is_file() else None


def _fetch(wanted: Wanted, notes: Notes) -> Finding:
    by = "HTTP" if wanted.by_http else "TFTP"
    what = f"{quoted(wanted.name)} from {wanted.server} by {by}" if not wanted.by_http else quoted(wanted.name)
    facts: dict[str, object] = {"server": wanted.server, "name": wanted.name, "by": by}
    got = fetch_http(wanted.name) if wanted.by_http else fetch_tftp(wanted.server, wanted.name)
    if isinstance(got, NotFetched):
        return _not_fetched(wanted, got, what, facts, notes)
    facts.update(bytes=got.size, bytes_per_s=round(got.bytes_per_s))
    expected = read_expected(wanted.expected) if wanted.expected is not None else None
    if expected is not None and (expected.size, expected.digest) != (got.size, got.digest):
        return notes.problem(
            f"{what} is not what {wanted.expected} holds: {got.size:,} bytes came, {expected.size:,} are there",
            "somebody answers in our place, or the file was replaced meanwhile: run this again, and see `dhcp`",
            **facts,
        )
    same = ", as on the disk" if expected is not None else ""
    told = f"{what} came whole{same}: {_size(got)}"
    if got.size >= SLOW_FROM_BYTES and got.bytes_per_s < SLOW_BYTES_PER_S:
        return notes.warning(
            told + ", which is slow", "look for errors and duplex mismatch on the way (`ip -statistics link`)", **facts
        )
    return notes.ok(told, **facts)


def _not_fetched(wanted: Wanted, got: NotFetched, what: str, facts: dict[str, object], notes: Notes) -> Finding:
    facts = {**facts, "bytes": got.size, "reason": got.reason}
    if not wanted.by_http and isinstance(small := fetch_tftp(wanted.server, wanted.name, SMALL_BLOCK_BYTES), Fetched):
        return notes.problem(
            f"{what} comes only in blocks of {SMALL_BLOCK_BYTES} bytes ({_size(small)}); in whole ones: "
            f"{quoted(got.reason)}",
            "look for a smaller MTU on the way, and for a firewall that drops fragments",
            **facts,
        )
    after = f" after {got.size:,} bytes" if got.size else ""
    port = "the port" if wanted.by_http else "UDP 69 and the ports of transfers"
    return notes.problem(
        f"{what} does not come{after}: {quoted(got.reason)}",
        f"see what `firewall`, `ports` and the server's log tell; {port} must be open, and the file there",
        **facts,
    )


def _size(got: Fetched) -> str:
    return f"{got.size:,} bytes, {got.bytes_per_s / 1e6:.1f} MB/s"
