"""What goes wrong in a boot, in words, each with what to do next. Pure: rules over a timeline and the time of now."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from netboot.boot.selection import OWN_PROGRAMS
from netboot.bootlog.events import (
    Agent,
    AgentStep,
    BootEvent,
    Configured,
    Entry,
    Exchange,
    Fetch,
    FetchState,
    Registered,
    Told,
)
from netboot.bootlog.file_ranges import range_words
from netboot.bootlog.timeline import BootRecord, Phase, Role, attempt_of, furthest, normal_path, role_of, told_files
from netboot.bootlog.words import arch_words, bytes_words, is_bios_arch, last_block, shown

OFFER_WAIT_S = 10.0
"""A firmware takes an offer within 4 s (PXE 2.1, section 2.2.3)."""
PROGRAM_WAIT_S = 15.0
FETCH_WAIT_S = 25.0
"""After its lease iPXE looks for an IPv6 router before it fetches anything: 16 s (seen on: QEMU's ROMs)."""
AGENT_WAIT_S = 90.0
LOOP_BOOTS = 3
LOOP_GAP_S = 600.0
MANY_NAKS = 3
RETURN_S = 60.0
"""Nobody who uses a machine starts it again so soon."""

_UEFI_PROGRAM = re.compile(r".*\.efi", re.IGNORECASE)
_BIOS_PROGRAM = re.compile(r"/*(bios/.+|.*\.(0|kpxe|pxe))", re.IGNORECASE)
_VOLUME = re.compile(r".*/http-.*\.img")
_OUR_ENDS = ("the appliance ", "the TFTP process ")
"""How reasons begin that are not the machine's nor the network's."""
_OTHER_BOOT = "choose another network boot in its setup: legacy (BIOS) PXE, or UEFI PXE of x64"
_REASONS = (
    ("pool", "pool-exhausted", "widen the pool (--pool, or `pools` in roomcast.toml), or shorten its leases"),
    ("arch ", "arch-unsupported", _OTHER_BOOT),
    ("PXE client without an arch", "arch-unsupported", _OTHER_BOOT),
    ("no boot programs", "program-missing", "run the command that the reason names"),
    ("the boot program", "program-missing", "start `roomcast serve` again; it says what it cannot make"),
    ("from a network without a pool", "no-subnet", "add a [[subnet]] with a pool to roomcast.toml"),
    ("every address", "addresses-in-use", "hosts with fixed addresses sit in the pool: move it, or widen it"),
    ("too many clients wait", "busy", "it is served when it asks again; if not, run `roomcast doctor`"),
    ("not answered: the lease", "lease-not-written", "make room on the disk of the data directory, or mend it"),
    ("too many packets", "throttled", "something sends without pause in its name: look for a loop between switches"),
    ("too many new", "throttled", "a host may make up hardware addresses: `roomcast boot log --ignored` shows them"),
)
"""How a reason begins, what it is called, and what to do."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong."""

    code: str
    severity: Severity
    text: str
    next_step: str


@dataclass(frozen=True, slots=True)
class _Story:
    boot: BootRecord
    earlier: Sequence[BootRecord]
    now: float
    told: set[str]
    reached: Phase

    @classmethod
    def of(cls, boot: BootRecord, earlier: Sequence[BootRecord], now: float) -> "_Story":
        return cls(boot, earlier, now, told_files(boot.entries), furthest(boot))

    def of_running_program(self) -> "_Story":
        """Of an iPXE that the firmware was told to start, when one was: it asks for all of it anew."""
        has_program = False
        for index, entry in enumerate(self.boot.entries):
            match entry.event:
                case Fetch(state=FetchState.DONE, path=path):
                    has_program = has_program or role_of(path, self.told) is Role.PROGRAM
                case Exchange(is_firmware=True) as exchange if has_program and attempt_of(exchange) == "ipxe":
                    begun = replace(self.boot, entries=self.boot.entries[index:])
                    return _Story.of(begun, self.earlier, self.now)
        return self

    @property
    def quiet_s(self) -> float:
        """Since its last event; until its next boot when there was one."""
        return (self.now if self.boot.next_s is None else self.boot.next_s) - self.boot.last_s

    @property
    def over(self) -> bool:
        return self.boot.next_s is not None

    def exchanges(self) -> list[tuple[Entry, Exchange]]:
        return [(e, e.event) for e in self.boot.entries if isinstance(e.event, Exchange) and e.event.is_firmware]

    def fetches(self) -> list[Fetch]:
        return [e.event for e in self.boot.entries if isinstance(e.event, Fetch)]

    def is_uefi(self) -> bool:
        return any(exchange.arch >= 0 and not is_bios_arch(exchange.arch) for _, exchange in self.exchanges())


def diagnose(boot: BootRecord, now: float, earlier: Sequence[BootRecord] = ()) -> list[Diagnosis]:
    """What is wrong with a boot. `earlier`: the machine's boots before it, the oldest first."""
    story = _Story.of(boot, earlier, now)
    running = story.of_running_program()
    found = [rule(running if rule in _OF_RUNNING_PROGRAM else story) for rule in _RULES]
    return [each for each in found if each is not None]


def _not_answered(story: _Story) -> Diagnosis | None:
    """The pool is empty, the arch is not served, the packet came by a relay that we do not know..."""
    asked = [exchange for _, exchange in story.exchanges() if exchange.message == "DISCOVER"]
    if not asked or story.reached > Phase.ADDRESSED:
        return None
    last = asked[-1]
    if last.boot_file or (last.answer and not last.why):
        return None
    code, next_step = next(
        ((code, next_step) for beginning, code, next_step in _REASONS if last.why.startswith(beginning)),
        ("no-answer", "the reason says why; `roomcast boot log --ignored` shows who else got none"),
    )
    got = "was told no boot file" if last.answer else "got no answer"
    text = f"it asked as {arch_words(last.arch)} and {got}: {shown(last.why)}"
    return Diagnosis(code, Severity.ERROR, text, next_step)


def _never_asked(story: _Story) -> Diagnosis | None:
    exchanges = story.exchanges()
    offers = sum(entry.count for entry, exchange in exchanges if exchange.answer == "OFFER")
    asked = any(exchange.message in ("REQUEST", "INFORM") for _, exchange in exchanges)
    if not offers or asked or story.reached > Phase.OFFERED or (story.quiet_s < OFFER_WAIT_S and not story.over):
        return None
    return Diagnosis(
        "offer-not-taken",
        Severity.ERROR,
        f"it was offered to {offers} times and never asked for what was offered: the OFFER does not reach it, or it "
        "waits for another server's",
        "let the switch port forward at once (STP portfast), check VLAN and firewall (UDP 68), and other DHCP servers",
    )


def _other_server(story: _Story) -> Diagnosis | None:
    ours = any(exchange.answer == "OFFER" and exchange.address for _, exchange in story.exchanges())
    taken = [x for _, x in story.exchanges() if _took_another(x)]
    if not ours or not taken:
        return None
    severity = Severity.NOTE if story.reached >= Phase.PROGRAM else Severity.ERROR
    return Diagnosis(
        "other-server",
        severity,
        f"it took the offer of another DHCP server: {taken[-1].server}",
        f"switch off the DHCP server at {taken[-1].server}, or run `roomcast serve --mode proxy` beside it",
    )


def _naks(story: _Story) -> Diagnosis | None:
    naks = 0
    for entry, exchange in story.exchanges():
        naks = naks + entry.count if exchange.answer == "NAK" else 0 if exchange.answer == "ACK" else naks
    if naks < MANY_NAKS:
        return None
    why = next(shown(x.why) for _, x in reversed(story.exchanges()) if x.answer == "NAK")
    text = f"its request for an address was refused {naks} times: {why}"
    return Diagnosis(
        "nak-loop", Severity.ERROR, text, "look for a second DHCP server that offers addresses of this network"
    )


def _never_fetched(story: _Story) -> Diagnosis | None:
    """It took its address, knows the boot file, and never asked for it."""
    exchanges = [exchange for _, exchange in story.exchanges()]
    told = [exchange for exchange in exchanges if exchange.boot_file]
    asked = [exchange for exchange in exchanges if exchange.message in ("REQUEST", "INFORM")]
    if not told or not asked or _took_another(asked[-1]) or asked[-1].answer == "NAK":
        return None
    if story.reached > Phase.ADDRESSED or story.fetches() or (story.quiet_s < FETCH_WAIT_S and not story.over):
        return None
    name = shown(told[-1].boot_file)
    if told[-1].answer == "OFFER" and not told[-1].address:
        text = f"it took another server's address, was told {name} by us, and never asked for it"
        hint = "the other server may name a boot file too (options 66, 67): take them out; let UDP 4011 and 69 pass"
    else:
        text = f"it has an address, was told {name}, and never asked for it"
        port = "our HTTP port (TCP 80)" if "://" in name else "TFTP (UDP 69)"
        hint = f"let {port} pass from its network to the appliance; `roomcast doctor` looks at our side"
    return Diagnosis("never-fetched", Severity.ERROR, text, hint)


def _wrong_program(story: _Story) -> Diagnosis | None:
    """BIOS asked for a program of UEFI, or the other way round: its file is not ours to tell."""
    arch = -1  # of whoever fetches: firmware may try UEFI and BIOS in one boot, one after the other
    for entry in story.boot.entries:
        match entry.event:
            case Exchange(is_firmware=True, arch=asked) if asked >= 0:
                arch = asked
            case Fetch(path=path) if arch >= 0:
                is_bios = is_bios_arch(arch)
                if (_UEFI_PROGRAM if is_bios else _BIOS_PROGRAM).fullmatch(path):
                    made_for = "UEFI" if is_bios else "BIOS"
                    return Diagnosis(
                        "wrong-program",
                        Severity.ERROR,
                        f"it asked as {arch_words(arch)} and fetches {shown(path)}, which is for {made_for}",
                        "another DHCP server names this file: take option 67 (filename) out of it, or let it tell "
                        "them apart",
                    )
    return None


def _stopped(story: _Story) -> Diagnosis | None:
    last = next((e for e in reversed(story.boot.entries) if not isinstance(e.event, Exchange)), None)
    if last is None or not isinstance(last.event, Fetch) or last.event.state is not FetchState.FAILED:
        return None  # who goes on has all of it: only its last acknowledgement was lost
    fetch = last.event
    name = shown(fetch.path)
    if fetch.transport == "tftp" and fetch.why.startswith(_OUR_ENDS):
        text = f"we ended TFTP of {name} after block {fetch.blocks}: {shown(fetch.why)}"
        return Diagnosis("tftp-cut", Severity.ERROR, text, "boot it again; if that fails too, see the appliance's log")
    if fetch.transport != "tftp" or not fetch.block_bytes:
        asked = range_words(fetch.ranges) if fetch.ranges else bytes_words(fetch.size)
        text = f"HTTP stopped after {bytes_words(fetch.sent)} of {asked} of {name}"
        return Diagnosis(
            "http-stopped", Severity.ERROR, f"{text}: {shown(fetch.why)}", "check cable and switch port; boot it again"
        )
    if fetch.why.startswith("the client ended it"):
        text = f"the machine ended TFTP of {name} after block {fetch.blocks} of {last_block(fetch)}: {shown(fetch.why)}"
        return Diagnosis("tftp-ended", Severity.ERROR, text, "its own message says why; its memory may be too small")
    text = f"TFTP stops after block {fetch.blocks} of {last_block(fetch)} of {name} ({fetch.block_bytes} bytes each)"
    if fetch.blocks == 0 and "never" in fetch.why:
        hint = "our answer comes from another port than 69: let firewalls on the way pass it (nf_conntrack_tftp)"
    elif fetch.blocks == 0:
        hint = "small packets pass and full ones do not: the MTU on the way is smaller than ours (VLAN, tunnel, switch)"
    else:
        hint = "check cable, duplex and switch port; then the MTU and firewalls on the way"
    return Diagnosis("tftp-stopped", Severity.ERROR, text, hint)


def _no_such_path(story: _Story) -> Diagnosis | None:
    refused = [f for f in story.fetches() if f.state is FetchState.REFUSED and role_of(f.path) is not Role.OPTIONAL]
    if not refused or story.reached >= Phase.PROGRAM:
        return None
    last = refused[-1]
    return Diagnosis(
        "no-such-file",
        Severity.ERROR,
        f"it asked by {last.transport.upper()} for {shown(last.path)}: {shown(last.why)}",
        "another DHCP server names this file: take options 66 and 67 (next-server, filename) out of it",
    )


def _program_alone(story: _Story) -> Diagnosis | None:
    """The boot program came whole, and nothing was heard of it."""
    index = next(
        (
            number
            for number, entry in reversed(list(enumerate(story.boot.entries)))
            if isinstance(entry.event, Fetch)
            and entry.event.state is FetchState.DONE
            and role_of(entry.event.path, story.told) is Role.PROGRAM
        ),
        None,
    )
    if index is None or story.reached >= Phase.SECOND or _wrong_program(story):
        return None
    after = story.boot.entries[index + 1 :]
    if any(isinstance(e.event, Fetch | Configured | Registered) for e in after):
        return None
    asks_again = story.over or any(isinstance(e.event, Exchange) and e.event.is_firmware for e in after)
    if not asks_again and story.quiet_s < PROGRAM_WAIT_S:
        return None
    event = story.boot.entries[index].event
    assert isinstance(event, Fetch)
    name = shown(event.path)
    if story.is_uefi():
        then = "and asked again" if asks_again else "and nothing of it was heard since"
        hint = "allow the Microsoft UEFI CA in its setup (some call it third-party CA), or turn Secure Boot off"
        if name.startswith(OWN_PROGRAMS):
            hint = "it is one of yours (boot-programs): it starts when it is signed, or with Secure Boot off"
        elif "shim" not in name:
            hint = "only shim is signed: let Roomcast be the DHCP server, use UEFI HTTP boot, or turn Secure Boot off"
        return Diagnosis(
            "secure-boot-refused",
            Severity.ERROR,
            f"it fetched {name} whole {then}: most likely Secure Boot refused it",
            hint,
        )
    if name.startswith(OWN_PROGRAMS):
        return Diagnosis(
            "program-silent",
            Severity.ERROR,
            f"it fetched {name} whole, and nothing of it was heard since",
            "it is one of yours (boot-programs): try another build of it, or take it out",
        )
    return Diagnosis(
        "program-silent",
        Severity.ERROR,
        f"it fetched {name} whole, and GRUB never asked for its configuration",
        "GRUB may not know its network card's ROM: update the firmware, or boot by UEFI",
    )


def _volume_alone(story: _Story) -> Diagnosis | None:
    """UEFI HTTP boot: what it shall do stands in the volume itself, so that nothing is heard before the agent."""
    entries = story.boot.entries
    index = next((i for i, e in reversed(list(enumerate(entries))) if _is_volume(e.event)), None)
    if index is None or any(isinstance(e.event, Registered | Agent) for e in entries[index:]):
        return None
    told = [e.event.told for e in entries[: index + 1] if isinstance(e.event, Configured)]
    if (told and told[-1] is Told.LOCAL) or (story.quiet_s < AGENT_WAIT_S and not story.over):
        return None
    return Diagnosis(
        "volume-silent",
        Severity.ERROR,
        "it fetched the whole volume by HTTP, and the agent in it never registered: Secure Boot refused what is in "
        "it, or its memory is too small for the volume and the agent",
        "read its screen; allow the Microsoft UEFI CA in its setup, or turn Secure Boot off; give it 1 GB or more",
    )


def _grub_alone(story: _Story) -> Diagnosis | None:
    if story.reached is not Phase.SECOND or (story.quiet_s < PROGRAM_WAIT_S and not story.over):
        return None
    hint = "beside another DHCP server GRUB must be told our address: check options 66 and 67 there, and UDP 69"
    if not story.is_uefi():
        return Diagnosis(
            "grub-unconfigured", Severity.ERROR, "GRUB never asked for the configuration of this machine", hint
        )
    return Diagnosis(
        "grub-unconfigured",
        Severity.ERROR,
        "shim and GRUB came, and GRUB never asked for the configuration of this machine: Secure Boot (shim) refused "
        "GRUB, or GRUB asks another server",
        f"read its screen: after a security violation run `roomcast serve` anew, which takes Debian's; else {hint}",
    )


def _kernel_alone(story: _Story) -> Diagnosis | None:
    if story.reached is not Phase.KERNEL or (story.quiet_s < PROGRAM_WAIT_S and not story.over):
        return None
    if story.fetches()[-1].state in (FetchState.RUNNING, FetchState.FAILED, FetchState.PART):
        return None
    cause = "most likely Secure Boot refused the kernel" if story.is_uefi() else "GRUB could not load the kernel"
    text = f"the kernel came whole, the initramfs was never asked for: {cause}"
    return Diagnosis(
        "kernel-refused", Severity.ERROR, text, "build the agent again (roomcast agent build); read its screen"
    )


def _agent_missing(story: _Story) -> Diagnosis | None:
    if story.reached is not Phase.INITRAMFS or (story.quiet_s < AGENT_WAIT_S and not story.over):
        return None
    entries = story.boot.entries
    loaded = next(i for i, e in reversed(list(enumerate(entries))) if _is_initramfs(e.event))
    if any(isinstance(e.event, Exchange) and not e.event.is_firmware for e in entries[loaded:]):
        text = "the agent started and took an address, and never registered"
        return Diagnosis("agent-silent", Severity.ERROR, text, "let TCP to the appliance's HTTP port pass")
    text = "kernel and initramfs were loaded, and the agent never registered"
    hint = "it may have too little memory (512 MB are needed), or a network card without a driver: read its screen"
    return Diagnosis("agent-missing", Severity.ERROR, text, hint)


def _agent_says(story: _Story) -> Diagnosis | None:
    words = [e.event for e in story.boot.entries if isinstance(e.event, Agent | Registered)]
    match words[-1] if words else None:
        case Registered(refused=why) if why:
            return Diagnosis("agent-refused", Severity.ERROR, f"the agent was refused: {shown(why)}", "boot it again")
        case Agent(step=AgentStep.FAILED, task=task, why=why):
            text = f"{shown(task)} failed: {shown(why)}"
            return Diagnosis("task-failed", Severity.ERROR, text, "mend the cause and give the task again")
        case Agent(step=AgentStep.WAITS):
            text = "the agent runs and waits for a task"
            return Diagnosis("agent-waits", Severity.NOTE, text, "give it one: roomcast deploy IMAGE --to MACHINE")
    return None


def _returned(story: _Story) -> Diagnosis | None:
    """It was sent to its own disk, and is back."""
    if not story.earlier or not _came_back(story.earlier[-1], story.boot) or _loop(story):
        return None
    after_s = story.boot.started_s - story.earlier[-1].last_s
    return Diagnosis(
        "disk-returned",
        Severity.WARNING,
        f"it was told to start its own disk, and {after_s:.0f} s later it asked the network again: most likely its "
        "disk does not start",
        "read its screen; check that its disk holds a boot loader for this firmware, or deploy an image to it",
    )


def _came_back(before: BootRecord, after: BootRecord) -> bool:
    """Whether GRUB was told to start the disk, and the same device of the firmware's boot order asked again at once.

    The agent's own way home is a restart, which asks the network again; another device may stand before the disk.
    """
    steps = [e.event for e in before.entries if isinstance(e.event, Configured | Registered | Agent)]
    if not steps or not isinstance(steps[-1], Configured) or steps[-1].told is not Told.LOCAL:
        return False
    kinds, asks = {attempt_of(x) for x in _firmware(before)}, _firmware(after)[:1]
    is_same_device = not kinds or not asks or attempt_of(asks[0]) in kinds
    return is_same_device and 0 <= after.started_s - before.last_s < RETURN_S


def _disk_failed(story: _Story) -> Diagnosis | None:
    """GRUB said so, or no way is left."""
    told = [e.event for e in story.boot.entries if isinstance(e.event, Configured)]
    said = any(normal_path(fetch.path).startswith("grub/failed-chainload-") for fetch in story.fetches())
    hint = "read its screen; check that its disk holds a boot loader for this firmware, or deploy an image to it"
    if told and told[-1].way == "none":
        text = "no way led to its own disk: it waits and asks again"
        return Diagnosis("no-way-home", Severity.ERROR, text, f"{hint}; see also `roomcast machine boot-way`")
    if not said:
        return None
    text = "GRUB could not start its own disk; the next way there is tried by itself"
    return Diagnosis("disk-not-started", Severity.WARNING, text, hint)


def _loop(story: _Story) -> Diagnosis | None:
    """Not: a machine that is started often, and comes to its disk or to its agent each time."""
    if story.reached >= Phase.REGISTERED:
        return None
    is_local = any(isinstance(e.event, Configured) and e.event.told is Told.LOCAL for e in story.boot.entries)
    count, next_one = 1, story.boot
    for boot in reversed(story.earlier):
        if furthest(boot) != story.reached or next_one.started_s - boot.started_s > LOOP_GAP_S:
            break
        if is_local and not _came_back(boot, next_one):
            break
        count, next_one = count + 1, boot
    if count < LOOP_BOOTS:
        return None
    next_step = (
        "its own disk does not start: check its boot order and its disk"
        if is_local
        else "see what is wrong with each of them"
    )
    return Diagnosis("loop", Severity.WARNING, f"it boots in a loop: {count} times, each as far as this", next_step)


def _other_firmware(story: _Story) -> Diagnosis | None:
    now, before = story.exchanges(), [x for boot in story.earlier[-1:] for x in _firmware(boot)]
    if not now or not before or attempt_of(now[0][1]) != attempt_of(before[0]) or now[0][1].arch == before[0].arch:
        return None
    text = f"it asks as {arch_words(now[0][1].arch)}, and asked as {arch_words(before[0].arch)} the last time"
    return Diagnosis(
        "arch-changed",
        Severity.WARNING,
        text,
        "its setup was changed (CSM, Legacy), or it tries both: a disk installed the one way may not start the other",
    )


def _took_another(exchange: Exchange) -> bool:
    return exchange.message == "REQUEST" and not exchange.answer and exchange.why.startswith("took another")


def _is_volume(event: BootEvent) -> bool:
    return isinstance(event, Fetch) and event.state is FetchState.DONE and bool(_VOLUME.fullmatch(event.path))


def _is_initramfs(event: BootEvent) -> bool:
    return isinstance(event, Fetch) and event.state is FetchState.DONE and role_of(event.path) is Role.INITRAMFS


def _firmware(boot: BootRecord) -> list[Exchange]:
    return [e.event for e in boot.entries if isinstance(e.event, Exchange) and e.event.is_firmware]


_OF_RUNNING_PROGRAM = (_never_asked, _never_fetched, _program_alone)
_RULES: tuple[Callable[[_Story], Diagnosis | None], ...] = (
    _not_answered, _never_asked, _other_server, _naks, _never_fetched, _wrong_program, _stopped, _no_such_path,
    _program_alone, _volume_alone, _grub_alone, _kernel_alone, _agent_missing, _agent_says, _disk_failed, _returned,
    _loop, _other_firmware,
)  # fmt: skip
