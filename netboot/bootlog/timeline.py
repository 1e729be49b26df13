"""Every machine's boots, in bounded memory: which event belongs to which boot, and where a boot begins. Pure.

A boot begins with a DISCOVER of firmware: after silence, or after the boot before it got further than to ask. The
DHCP of GRUB, of the agent and of the system that was started belongs to the boot that it is part of.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

from netboot.bootlog.events import (
    Agent,
    BootEvent,
    Configured,
    Entry,
    Exchange,
    Fetch,
    FetchState,
    Registered,
)
from netboot.bootlog.file_ranges import add_part, is_more_of

SILENCE_S = 60.0
"""A firmware that repeats its DISCOVER waits 4, 8, 16, 32 s (PXE 2.1, section 2.2.3); more is another power-on."""
ANEW_S = 3.0
"""A DISCOVER so long after an ACK is no repetition: the machine had an address and could not go on."""
SYSTEM_S = 900.0
"""The installed system's own DHCP is told so long after the boot; later it is no news of the boot."""
MAX_BOOTS = 2500
"""Earlier ones are in the database: 1.4 KB each here."""
MAX_ENTRIES = 50_000
"""Of all boots together."""
BOOTS_EACH = 6
FIRST_ENTRIES = 60
LAST_ENTRIES = 140
"""Of a boot with more, what is between is counted."""
WRITE_AFTER_S = 5.0
"""A boot is written when it was quiet for so long,"""
WRITE_LATEST_S = 30.0
"""or was not written for so long."""

_OPTIONAL = re.compile(
    r".*\.(lst|mo|mo\.gz|pf2|sig)|.*revocations(_sbat|_sku)?\.efi|.*shim_certificate(_\d+)?\.efi|.*/?grubenv"
    r"|.*grub\.cfg-[0-9a-f]{1,8}|.*grub\.cfg-[0-9a-f]{8}-[0-9a-f-]+|.*/mm[a-z]{2}\.efi|.*/fbx64\.efi",
    re.IGNORECASE,
)
_PROGRAM = re.compile(r"(bios/.+|.*shim[a-z0-9]*\.efi|.*/grub\.efi|.*/ipxe.*|.*\.0|.*\.kpxe)", re.IGNORECASE)


class Role(StrEnum):
    """What a file is for."""

    PROGRAM = "program"
    """The firmware was told to start it."""
    SECOND = "second"
    """Started by the first: GRUB behind shim."""
    CONFIGURATION = "configuration"
    KERNEL = "kernel"
    INITRAMFS = "initramfs"
    OPTIONAL = "optional"
    """Asked for by GRUB and shim, which do without."""
    OTHER = "other"


class Phase(IntEnum):
    """How far a boot came."""

    NOTHING = 0
    ASKED = 1
    OFFERED = 2
    ADDRESSED = 3
    PROGRAM = 4
    """The boot program arrived whole."""
    SECOND = 5
    CONFIGURED = 6
    """GRUB got what it shall do."""
    KERNEL = 7
    INITRAMFS = 8
    REGISTERED = 9
    WORKING = 10


@dataclass(frozen=True, slots=True)
class BootRecord:
    """One boot as it stands."""

    mac: str
    """Or the address of a machine whose MAC nobody knows."""
    started_s: float
    machine: str = ""
    address: str = ""
    entries: tuple[Entry, ...] = ()
    dropped: int = 0
    """Entries left out after the first ones."""
    next_s: float | None = None
    """When the machine's next boot began."""

    @property
    def last_s(self) -> float:
        return max((entry.last_s for entry in self.entries), default=self.started_s)


def normal_path(path: str) -> str:
    """A file's name without what differs between transports."""
    return "/".join(part for part in path.split("/") if part).removeprefix("boot/")


def role_of(path: str, told: Iterable[str] = ()) -> Role:
    """What the file is for. `told`: boot files that DHCP named in this boot."""
    name = normal_path(path)
    if any(normal_path(file.split("://", 1)[-1].partition("/")[2] if "://" in file else file) == name for file in told):
        return Role.PROGRAM
    if _OPTIONAL.fullmatch(name):
        return Role.OPTIONAL
    if name.startswith("grub/") and (name.endswith(".cfg") or "grub.cfg-01-" in name):
        return Role.CONFIGURATION
    if name.startswith("agent/"):
        return Role.INITRAMFS if "initrd" in name else Role.KERNEL if "vmlinuz" in name else Role.OTHER
    if _PROGRAM.fullmatch(name):
        return Role.PROGRAM
    if name.endswith(".efi"):
        return Role.SECOND
    return Role.OTHER


_PHASE_OF_ROLE = {
    Role.PROGRAM: Phase.PROGRAM,
    Role.SECOND: Phase.SECOND,
    Role.CONFIGURATION: Phase.SECOND,
    Role.KERNEL: Phase.KERNEL,
    Role.INITRAMFS: Phase.INITRAMFS,
}


def phase_of(event: BootEvent, told: Iterable[str] = ()) -> Phase:
    """How far the machine is that does this."""
    match event:
        case Exchange(is_firmware=True, answer="ACK"):
            return Phase.ADDRESSED
        case Exchange(is_firmware=True, answer="OFFER"):
            return Phase.OFFERED
        case Exchange(is_firmware=True):
            return Phase.ASKED
        case Fetch(state=FetchState.DONE):
            return _PHASE_OF_ROLE.get(role_of(event.path, told), Phase.ADDRESSED)
        case Fetch():
            return Phase.ADDRESSED
        case Configured():
            return Phase.CONFIGURED
        case Registered(refused=""):
            return Phase.REGISTERED
        case Agent():
            return Phase.WORKING
    return Phase.NOTHING


def told_files(entries: Iterable[Entry]) -> set[str]:
    """The boot files that DHCP named."""
    return {e.event.boot_file for e in entries if isinstance(e.event, Exchange) and e.event.boot_file}


def furthest(boot: BootRecord) -> Phase:
    told = told_files(boot.entries)
    return max((phase_of(entry.event, told) for entry in boot.entries), default=Phase.NOTHING)


def is_optional_miss(event: BootEvent) -> bool:
    """A file was refused that GRUB or shim does without."""
    return isinstance(event, Fetch) and event.state is FetchState.REFUSED and role_of(event.path) is Role.OPTIONAL


@dataclass(slots=True)
class _Boot:
    """A boot that goes on, or is kept."""

    mac: str
    started_s: float
    machine: str = ""
    address: str = ""
    entries: list[Entry] = field(default_factory=list)
    """The first ones, then the last ones."""
    dropped: int = 0
    next_s: float | None = None
    numbers: int = 0
    phase: Phase = Phase.NOTHING
    heard_s: float = 0.0
    """Its last event."""
    news_s: float = 0.0
    """Its last event that was more than the DHCP of a system."""
    attempts: tuple[str, ...] = ()
    """Kinds of firmware that asked, in order, each once."""
    attempt_phase: Phase = Phase.NOTHING
    told: tuple[str, ...] = ()
    """The boot files that DHCP named, each once."""
    has_program: bool = False
    """A boot program was fetched, or is being fetched, by the kind of firmware that asked last."""

    def __len__(self) -> int:
        return len(self.entries)

    def record(self) -> BootRecord:
        entries = tuple(self.entries)
        return BootRecord(self.mac, self.started_s, self.machine, self.address, entries, self.dropped, self.next_s)

    def newest(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    def add(self, event: BootEvent, now: float) -> None:
        if isinstance(event, Fetch) and event.state is not FetchState.RUNNING:
            self._take_running(event)
        if isinstance(event, Fetch) and event.state is FetchState.PART:
            event = self._sum_up(event, now)
            if event.state is FetchState.PART and event.parts > 1:
                self._note(event, now)
                return
        newest = self.newest()
        if newest is not None and (
            newest.event == event or (is_optional_miss(event) and is_optional_miss(newest.event))
        ):
            self.entries[-1] = replace(newest, count=newest.count + 1, last_s=now)
        else:
            self.numbers += 1
            self.entries.append(Entry(self.numbers, now, event, 1, now))
            if len(self.entries) > FIRST_ENTRIES + LAST_ENTRIES:
                del self.entries[FIRST_ENTRIES]
                self.dropped += 1
        self._note(event, now)

    def _note(self, event: BootEvent, now: float) -> None:
        """What the boot as a whole learns from an event."""
        if isinstance(event, Exchange) and event.boot_file not in ("", *self.told) and len(self.told) < 8:
            self.told += (event.boot_file,)
        if isinstance(event, Fetch) and event.state is not FetchState.REFUSED and not self.has_program:
            self.has_program = role_of(event.path, self.told) is Role.PROGRAM
        phase = phase_of(event, self.told)
        self.phase = max(self.phase, phase)
        self.attempt_phase = max(self.attempt_phase, phase)
        self.heard_s = now

    def is_fetching(self, event: Fetch) -> bool:
        """Whether this is the end of a fetch that is on its way."""
        return event.state is not FetchState.RUNNING and self._running(event) is not None

    def _running(self, event: Fetch) -> int | None:
        """Where the entry of the fetch stands that ends now."""
        return self._find(
            lambda old: old.state is FetchState.RUNNING and (old.transport, old.path) == (event.transport, event.path)
        )

    def _find(self, is_it: Callable[[Fetch], bool]) -> int | None:
        """Where a fetch among the last entries stands."""
        for index in range(len(self.entries) - 1, max(-1, len(self.entries) - 80), -1):
            old = self.entries[index].event
            if isinstance(old, Fetch) and is_it(old):
                return index
        return None

    def _sum_up(self, part: Fetch, now: float) -> Fetch:
        """The ranges of a file that were sent so far are one entry; when they are all of it, it goes: its end comes."""
        if (index := self._find(lambda old: is_more_of(part, old))) is None:
            return part
        before = self.entries[index]
        assert isinstance(before.event, Fetch)
        together = add_part(before.event, part)
        if together.state is FetchState.PART:
            self.entries[index] = replace(before, event=together, count=before.count + 1, last_s=now)
        else:
            del self.entries[index]
        return together

    def _take_running(self, event: Fetch) -> None:
        """The entry of the fetch that ends now goes: its end takes its place."""
        if (index := self._running(event)) is None:
            return
        entry = self.entries[index]
        if entry.count > 1:
            self.entries[index] = replace(entry, count=entry.count - 1)
        else:
            del self.entries[index]


def attempt_of(event: Exchange) -> str:
    """The kind of firmware that asks: another kind within a boot is the next device, or iPXE that was chained."""
    if event.vendor_class.startswith("HTTPClient"):
        return "http"
    return "ipxe" if "iPXE" in event.user_class else "pxe"


class BootLog:
    """The boots of all machines. Not safe to call from two threads at once."""

    def __init__(self) -> None:
        self._boots_of: dict[str, list[_Boot]] = {}
        self._asked: OrderedDict[tuple[str, float], _Boot] = OrderedDict()
        self._further: OrderedDict[tuple[str, float], _Boot] = OrderedDict()
        """Both by their last event, the oldest first. Whoever makes up MACs fills the first, and pushes out of it."""
        self._entries = 0
        self._dirty: dict[tuple[str, float], float] = {}
        self.version = 0
        """Counts changes."""

    def record(self, mac: str, event: BootEvent, now: float) -> None:
        """Put an event in its place."""
        boots = self._boots_of.get(mac)
        boot = boots[-1] if boots else None
        if isinstance(event, Exchange) and not event.is_firmware:
            if boot is None or now - boot.news_s > SYSTEM_S:
                return
        elif boot is None or _begins_boot(boot, event, now):
            if boot is not None:
                boot.next_s = now
                self._dirty.setdefault(_key(boot), now)
            boot = _Boot(mac, now, boot.machine if boot else "")
            self._boots_of.setdefault(mac, []).append(boot)
        if isinstance(event, Exchange) and event.is_firmware:
            kind = attempt_of(event)
            if kind not in boot.attempts:
                boot.attempts += (kind,)
                boot.attempt_phase = Phase.NOTHING
                boot.has_program = False
        before = len(boot)
        boot.add(event, now)
        self._entries += len(boot) - before
        if not (isinstance(event, Exchange) and not event.is_firmware):
            boot.news_s = now
        match event:
            case Exchange(answer="ACK", address=address) if address:
                boot.address = address
            case Registered(refused="") | Configured() if event.machine:
                boot.machine = event.machine
        self._touch(boot, now)

    def record_news(self, mac: str, event: BootEvent, now: float) -> None:
        """As `record`, unless it is what was told last."""
        boots = self._boots_of.get(mac)
        newest = boots[-1].newest() if boots else None
        if newest is None or newest.event != event:
            self.record(mac, event, now)

    def knows(self, mac: str) -> bool:
        return mac in self._boots_of

    def set_address(self, mac: str, address: str) -> None:
        """The machine was heard from this address."""
        if (boots := self._boots_of.get(mac)) and boots[-1].address != address:
            boots[-1].address = address

    def boots(self, mac: str) -> list[BootRecord]:
        """The boots of a machine that are in memory, the oldest first."""
        return [boot.record() for boot in self._boots_of.get(mac, ())]

    def latest(self, limit: int) -> list[BootRecord]:
        """The last boot of each machine, the latest heard first."""
        boots = [boots[-1] for boots in self._boots_of.values()]
        boots.sort(key=lambda boot: boot.heard_s, reverse=True)
        return [boot.record() for boot in boots[:limit]]

    def mac_at(self, address: str) -> str | None:
        """Whose boot had this address last."""
        found = [boots[-1] for boots in self._boots_of.values() if boots[-1].address == address]
        return max(found, key=lambda boot: boot.heard_s).mac if found else None

    def take_due(self, now: float, limit: int, *, all_of_them: bool = False) -> list[BootRecord]:
        """Boots to be written down now, those that got further first; each is told once until it changes again."""
        due: list[_Boot] = []
        for key, since in list(self._dirty.items()):
            boot = self._further.get(key) or self._asked.get(key)
            if boot is None:
                del self._dirty[key]
            elif all_of_them or now - boot.heard_s >= WRITE_AFTER_S or now - since >= WRITE_LATEST_S:
                due.append(boot)
        due.sort(key=lambda boot: boot.phase, reverse=True)
        for boot in due[:limit]:
            del self._dirty[_key(boot)]
        return [boot.record() for boot in due[:limit]]

    def _touch(self, boot: _Boot, now: float) -> None:
        key = _key(boot)
        self.version += 1
        self._dirty.setdefault(key, now)
        if boot.phase > Phase.OFFERED:
            self._asked.pop(key, None)
            self._further[key] = boot
            self._further.move_to_end(key)
        else:
            self._asked[key] = boot
            self._asked.move_to_end(key)
        boots = self._boots_of[boot.mac]
        if len(boots) > BOOTS_EACH:
            self._forget(boots[0])
        while len(self._asked) + len(self._further) > MAX_BOOTS or self._entries > MAX_ENTRIES:
            tier = self._asked if len(self._asked) > 1 else self._further
            oldest = next(iter(tier.values()))
            if oldest is boot:
                break
            self._forget(oldest)

    def _forget(self, boot: _Boot) -> None:
        key = _key(boot)
        self._asked.pop(key, None)
        self._further.pop(key, None)
        self._entries -= len(boot)
        boots = self._boots_of[boot.mac]
        boots.remove(boot)
        if not boots:
            del self._boots_of[boot.mac]


def _key(boot: _Boot) -> tuple[str, float]:
    return boot.mac, boot.started_s


def _begins_boot(boot: _Boot, event: BootEvent, now: float) -> bool:
    match event:
        case Exchange(is_firmware=True, message="DISCOVER", port=67):
            quiet_s = now - boot.heard_s
            if quiet_s > SILENCE_S:
                return True
            if attempt_of(event) not in boot.attempts:
                return boot.phase >= Phase.CONFIGURED
            if boot.attempt_phase <= Phase.OFFERED:
                return attempt_of(event) != boot.attempts[-1]
            return boot.attempt_phase > Phase.ADDRESSED or quiet_s > ANEW_S
        case Fetch(ranges=()):
            # Where another server tells the boot file and no DISCOVER reaches us. Not: the volume of UEFI HTTP boot,
            # whose first word is what stands in it.
            is_program = role_of(event.path, boot.told) is Role.PROGRAM and event.state is not FetchState.REFUSED
            is_again = boot.has_program and not boot.is_fetching(event)
            return is_program and is_again and boot.phase >= Phase.CONFIGURED
    return False
