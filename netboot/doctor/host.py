"""Checks of the machine itself: room for images, clock, open files, buffers of the network."""

import ctypes
import os
import resource
import shutil
import struct
import time
from pathlib import Path

from netboot.doctor.findings import Finding, Notes
from netboot.doctor.subject import Subject

FULL_BYTES = 1 << 30
"""Below it leases, boot files and logs are in danger."""
TIGHT_BYTES = 20 << 30
"""Below it one more image may not fit."""
FEW_INODES = 10_000
EARLIEST_YEAR = 2025
"""No clock that is right shows an earlier one."""
FEW_FILES = 4096
"""A room of 40 machines with some connections each, transfers and packs beside them."""
CAST_BUFFER_BYTES = 4 << 20
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_CAP_NET_ADMIN = 12
_PROC = Path("/proc")


def check_disk(subject: Subject) -> list[Finding]:
    """Free space and inodes of the data directory."""
    notes = Notes("disk")
    directory = subject.settings.data
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        usage, inodes = shutil.disk_usage(directory), os.statvfs(directory)
    except OSError as error:
        return [notes.problem(f"{directory}: {error.strerror}", "name another directory with --data")]
    free = f"{usage.free / 1e9:,.1f} GB of {usage.total / 1e9:,.1f} GB free in {subject.settings.data}"
    facts = {"directory": str(subject.settings.data), "free_bytes": usage.free, "total_bytes": usage.total}
    action = "remove what is not needed, or move the data directory to a larger disk (`data` in the configuration)"
    findings = []
    if usage.free < FULL_BYTES:
        findings.append(notes.problem(f"only {free}", action, **facts))
    elif usage.free < TIGHT_BYTES:
        findings.append(notes.warning(f"only {free}: an image may not fit", action, **facts))
    else:
        findings.append(notes.ok(free, **facts))
    if inodes.f_files and inodes.f_favail < FEW_INODES:
        findings.append(
            notes.problem(f"only {inodes.f_favail} more files can be made in {subject.settings.data}", action, **facts)
        )
    return findings


def check_clock(subject: Subject, now: float | None = None, synchronised: bool | None = None) -> list[Finding]:
    """A sane year, and a kernel that says somebody keeps the clock. The arguments are for what the kernel says."""
    del subject
    notes = Notes("clock")
    now = time.time() if now is None else now
    told = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if time.gmtime(now).tm_year < EARLIEST_YEAR:
        return [
            notes.problem(
                f"the clock shows {told}", "set it: `timedatectl set-ntp true`, or `date --set`; look at its battery"
            )
        ]
    synchronised = clock_is_synchronised() if synchronised is None else synchronised
    if not synchronised:
        return [
            notes.warning(
                f"the clock shows {told}, and nobody keeps it: the kernel calls it not synchronised",
                "`timedatectl set-ntp true` (systemd-timesyncd), or install chrony",
            )
        ]
    return [notes.ok(f"the clock shows {told} and is synchronised")]


def clock_is_synchronised() -> bool:
    """adjtimex(2): neither its state nor its status bits say that the clock runs free."""
    timex = ctypes.create_string_buffer(512)  # struct timex with modes = 0: only read
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    # modes and padding, offset, freq, maxerror, esterror, status
    (status,) = struct.unpack_from("=i", timex, 8 + 4 * struct.calcsize("l"))
    return state not in (-1, _TIME_ERROR) and not status & _STA_UNSYNC


def check_limits(subject: Subject) -> list[Finding]:
    """Open files and socket buffers of the running appliance; without one, what it would be given from here."""
    notes = Notes("limits")
    pid = subject.running.pid if subject.running else None
    return [_open_files(pid, notes), _buffers(pid, notes)]


def _open_files(pid: int | None, notes: Notes) -> Finding:
    whose = f"process {pid}" if pid else "a process that is started from here"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if pid:
        try:
            hard = _limit_of(pid)
        except (OSError, ValueError, StopIteration):
            return notes.note(f"the limits of process {pid} were not looked at", "run this with sudo")
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        return notes.warning(
            f"{whose} may open only {hard} files: a room's machines need more connections at once",
            "`LimitNOFILE=65536` in the systemd unit, or `ulimit -Hn 65536` before it is started",
            open_files=hard,
        )
    many = "any number of" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return notes.ok(f"{whose} may open {many} files", open_files=hard)


def _limit_of(pid: int) -> int:
    line = next(
        line for line in (_PROC / str(pid) / "limits").read_text().splitlines() if line.startswith("Max open files")
    )
    hard = line.split()[4]
    return resource.RLIM_INFINITY if hard == "unlimited" else int(hard)


def _buffers(pid: int | None, notes: Notes) -> Finding:
    """Casts ask for buffers beyond the system's limit, which takes CAP_NET_ADMIN."""
    try:
        limits = {name: int((_PROC / "sys/net/core" / name).read_text()) for name in ("rmem_max", "wmem_max")}
        status = (_PROC / (str(pid) if pid else "self") / "status").read_text()
    except (OSError, ValueError) as error:
        return notes.note(f"the network's buffers were not looked at: {error}", "run this with sudo")
    capable = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    small = {name: value for name, value in limits.items() if value < CAST_BUFFER_BYTES}
    if capable >> _CAP_NET_ADMIN & 1 or not small:
        return notes.ok("casts get the socket buffers that they ask for", **limits)
    settings = " ".join(f"net.core.{name}={CAST_BUFFER_BYTES}" for name in small)
    return notes.warning(
        "casts get small socket buffers: "
        + ", ".join(f"net.core.{name} is {value:,} bytes" for name, value in small.items()),
        f"`sysctl -w {settings}`, and the same in /etc/sysctl.d; or let the appliance have CAP_NET_ADMIN",
        **limits,
    )
