"""A boot in words: one line an entry, one for the whole. Pure. What clients sent is made fit to be shown."""

from collections.abc import Iterator
from dataclasses import dataclass

from netboot.bootlog.events import (
    Agent,
    AgentStep,
    BootEvent,
    Configured,
    Exchange,
    Fetch,
    FetchState,
    Registered,
    Told,
)
from netboot.bootlog.file_ranges import range_words
from netboot.bootlog.timeline import (
    BootRecord,
    Phase,
    Role,
    furthest,
    is_optional_miss,
    normal_path,
    phase_of,
    role_of,
    told_files,
)
from netboot.wire.pxe import ARCH_NAMES

WAYS = {
    "chainload": "start its own disk",
    "exit": "end, and let the firmware start its own disk",
    "none": "wait and ask again: no way led to its own disk",
}
"""See boot/contexts.py."""

_UNITS = ("B", "KB", "MB", "GB")


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a timeline as it is shown."""

    number: int
    since_s: float
    """Seconds since the boot began."""
    count: int
    label: str
    """Who acts: firmware, shim, GRUB, agent, system; volume: what it holds was chosen."""
    text: str
    why: str
    ok: bool
    """False: not what a boot that goes well has."""


def shown(text: str) -> str:
    """Text of a stranger without anything that moves a cursor, hides itself, or adds a line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def arch_words(arch: int) -> str:
    return "no arch" if arch < 0 else f"{ARCH_NAMES.get(arch, 'unknown')} (arch {arch})"


def is_bios_arch(arch: int) -> bool:
    return arch in (0, 20)


def bytes_words(count: float) -> str:
    """Decimal units, three digits."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def lines_of(boot: BootRecord) -> list[Line]:
    """The whole timeline."""
    return list(_walk(boot))


def firmware_of(boot: BootRecord) -> str:
    """The kind of firmware, as it said itself; empty when nothing was heard of it."""
    for entry in boot.entries:
        if isinstance(entry.event, Exchange) and entry.event.is_firmware:
            return arch_words(entry.event.arch)
    return ""


def summary_of(boot: BootRecord) -> str:
    """How far it came, in a few words."""
    running = [e.event for e in boot.entries if isinstance(e.event, Fetch) and e.event.state is FetchState.RUNNING]
    if running:
        return f"fetches {shown(running[-1].path)}"
    for entry in reversed(boot.entries):
        match entry.event:
            case Agent() as event:
                return _agent(event)[0]
            case Configured(told=Told.LOCAL, way="none"):
                return "no way led to its own disk"
            case Configured(told=Told.LOCAL):
                return "told to start its own disk"
    match furthest(boot):
        case Phase.REGISTERED:
            return "the agent registered"
        case Phase.INITRAMFS:
            return "kernel and initramfs loaded"
        case Phase.KERNEL:
            return "kernel loaded"
        case Phase.CONFIGURED:
            return "GRUB was told to start the agent"
        case Phase.SECOND | Phase.PROGRAM:
            return "boot program loaded"
        case Phase.ADDRESSED:
            return "has an address"
        case Phase.OFFERED:
            return "has an offer"
        case _:
            return "asked by DHCP"


def _walk(boot: BootRecord) -> Iterator[Line]:
    told = told_files(boot.entries)
    reached, is_local = Phase.NOTHING, False
    for entry in boot.entries:
        event = entry.event
        if isinstance(event, Exchange) and event.is_firmware:
            reached, is_local = Phase.NOTHING, False
        label = _label(event, reached, is_local=is_local, told=told)
        reached = max(reached, phase_of(event, told))
        is_local = is_local or (isinstance(event, Configured) and event.told is Told.LOCAL)
        text, why, ok = describe(event)
        if is_optional_miss(event) and entry.count > 1:
            text = f"{text} and {entry.count - 1} more"
        elif entry.count > 1 and not (isinstance(event, Fetch) and event.parts):
            text = f"{text}  (x{entry.count})"
        yield Line(entry.number, max(0.0, entry.at_s - boot.started_s), entry.count, label, text, why, ok)


def _label(event: BootEvent, reached: Phase, *, is_local: bool, told: set[str]) -> str:
    match event:
        case Exchange(is_firmware=True):
            return "firmware"
        case Exchange():
            if is_local:
                return "system"
            return "agent" if reached >= Phase.KERNEL else "GRUB"
        case Fetch():
            if role_of(event.path, told) is Role.PROGRAM:
                return "firmware"
            return "shim" if event.path.lower().endswith(".efi") else "GRUB"
        case Configured():
            return "volume" if any("://" in file for file in told) else "GRUB"
    return "agent"


def describe(event: BootEvent) -> tuple[str, str, bool]:
    """What happened, why, and whether it is as it should be."""
    match event:
        case Exchange():
            return _exchange(event)
        case Fetch():
            return _fetch(event)
        case Configured():
            doing = "start the agent" if event.told is Told.AGENT else WAYS.get(event.way, WAYS["chainload"])
            return f"told to {doing}", shown(event.why), event.way != "none"
        case Registered(refused=refused) if refused:
            return "registration refused", shown(refused), False
        case Registered():
            first = " for the first time" if event.is_new else ""
            facts = [f"{event.boot_s:.1f} s after its kernel started"]
            if event.memory_bytes:
                facts.append(f"{event.memory_bytes / 2**30:.3g} GiB of memory")
            if event.secure_boot:
                facts.append("Secure Boot on")
            return f"registered as {shown(event.machine)}{first}", ", ".join(facts), True
        case Agent():
            return _agent(event)
    return event.kind, "", True


def _exchange(event: Exchange) -> tuple[str, str, bool]:
    asked = event.message
    if event.port != 67:
        asked += f" on port {event.port}"
    facts = []
    if event.is_firmware and event.message == "DISCOVER":
        facts.append(arch_words(event.arch))
        facts.append(shown(event.vendor_class))
        if event.user_class:
            facts.append(f"user class {shown(event.user_class)}")
    elif event.wished and event.message != "DISCOVER":
        facts.append(event.wished)
    if event.server and event.message == "REQUEST" and not event.answer:
        facts.append(f"offered by {event.server}")
    if event.hostname:
        facts.append(f"host name {shown(event.hostname)}")
    if event.relay:
        facts.append(f"by relay {event.relay}")
    text = f"{asked} {', '.join(facts)}".rstrip()
    if not event.answer:
        return f"{text}: no answer", shown(event.why), event.message != "DISCOVER"
    given = [event.answer]
    if event.address and (event.answer == "OFFER" or event.address != event.wished):
        given.append(event.address)
    if event.boot_file:
        given.append(f"boot file {shown(event.boot_file)}")
        if event.boot_server and "://" not in event.boot_file:
            given.append(f"from {event.boot_server}")
    # The reason of a boot file is told once, with the offer; why there is none matters only to firmware.
    tells_why = (
        event.answer == "NAK"
        or (event.is_firmware and event.answer == "OFFER")
        or (event.is_firmware and not event.boot_file)
    )
    ok = event.answer != "NAK" and not (event.is_firmware and not event.boot_file)
    return f"{text} -> {' '.join(given)}", shown(event.why) if tells_why else "", ok


def _fetch(event: Fetch) -> tuple[str, str, bool]:
    how = event.transport.upper()
    path = shown(event.path)
    if normal_path(event.path).startswith("grub/failed-chainload-"):
        return "asked because its own disk did not start", "", False
    match event.state:
        case FetchState.RUNNING:
            size = f", {bytes_words(event.size)}" if event.size >= 0 else ""
            asked = f", {range_words(event.ranges)}" if event.ranges else ""
            return f"{how} {path}{size}{asked}: on its way", "", True
        case FetchState.REFUSED:
            if is_optional_miss(event):
                return f"{how} {path}: not there", "GRUB and shim do without", True
            return f"{how} {path}: refused", shown(event.why), False
        case FetchState.SIZED:
            return f"{how} {path}: asked for its size, {bytes_words(event.size)}", "", True
        case FetchState.FAILED:
            if event.block_bytes:
                far = f"after block {event.blocks} of {last_block(event)}"
            else:
                far = f"after {bytes_words(event.sent)}"
                far += f" of {range_words(event.ranges)}" if event.ranges else ""
            return f"{how} {path}: stopped {far}", shown(event.why), False
        case FetchState.PART:
            count = f" by {event.parts} ranges" if event.parts > 1 else ""
            of = f"{range_words(event.ranges)} of {bytes_words(event.size)}"
            return f"{how} {path}: {of}, {bytes_words(event.sent)} sent{count}", "", True
        case FetchState.DONE:
            took = f" in {event.seconds:.1f} s" if event.seconds > 0.05 else ""
            sent = event.sent if event.parts else event.size
            rate = f", {bytes_words(sent / event.seconds)}/s" if took and sent else ""
            took += f" by {event.parts} ranges" if event.parts else ""
            resent = f", {event.resent} blocks sent again" if event.resent else ""
            return f"{how} {path}: {bytes_words(event.size)}{took}{rate}{resent}", "", True


def last_block(event: Fetch) -> int:
    """How many blocks the whole file takes."""
    return max(event.size, 0) // event.block_bytes + 1 if event.block_bytes else 0


def _agent(event: Agent) -> tuple[str, str, bool]:
    task, why = shown(event.task), shown(event.why)
    match event.step:
        case AgentStep.WAITS:
            return "waits for a task", why, True
        case AgentStep.TASK:
            return f"took its task: {task}", why, True
        case AgentStep.SUCCEEDED:
            return f"done: {task}", why, True
        case AgentStep.FAILED:
            return f"failed: {task}", why, False
        case AgentStep.LOCAL:
            return "told to start its own disk", why, True
