"""How the machine leaves the agent: to its disk, or off.

With UEFI the next start is asked for by BootNext when the firmware has an entry for the disk that was written. Where
it has none (a blank disk's system made none yet) the appliance's GRUB starts the local disk. BIOS has no such word.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imager.errors import ToolError
from imager.programs import run

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BootEntry:
    """A line of `efibootmgr -v`."""

    number: str
    """Four hexadecimal digits."""
    label: str
    partition_uuid: str
    """Of the EFI system partition it starts from, lower case; empty for a network card, a shell..."""


def parse_boot_entries(text: str) -> list[BootEntry]:
    """What `efibootmgr -v` prints: active entries (`Boot0003* label<TAB>device path`), in the order of the firmware."""
    order = re.search(r"^BootOrder: ([0-9A-Fa-f,]+)", text, re.M)
    places = {number: i for i, number in enumerate(order[1].upper().split(","))} if order else {}
    entries = []
    for match in re.finditer(r"^Boot([0-9A-Fa-f]{4})\* ([^\t\n]*)\t?([^\n]*)$", text, re.M):
        uuid = re.search(r"HD\(\d+,GPT,([0-9A-Fa-f-]{36})", match[3])
        entries.append(BootEntry(match[1].upper(), match[2].strip(), uuid[1].lower() if uuid else ""))
    return sorted(entries, key=lambda entry: places.get(entry.number, len(places)))


def choose_entry(entries: Iterable[BootEntry], partition_uuids: Iterable[str]) -> BootEntry | None:
    """The first entry that starts from one of these partitions."""
    wanted = {uuid.lower() for uuid in partition_uuids if uuid}
    return next((entry for entry in entries if entry.partition_uuid in wanted), None)


def boot_disk_next(partition_uuids: Iterable[str], say: Say) -> bool:
    """Ask a UEFI firmware to start from one of these partitions next. False when it has no entry for one."""
    try:
        entry = choose_entry(parse_boot_entries(run(["efibootmgr", "-v"], timeout_s=30)), partition_uuids)
        if entry is None:
            return False
        run(["efibootmgr", "--quiet", "--bootnext", entry.number], timeout_s=30)
    except ToolError as error:
        say(f"the firmware's boot entries stay as they are: {error}")
        return False
    say(f"next start: {entry.label} (Boot{entry.number})")
    return True


def reboot() -> None:
    """Flush and start again. Does not return but for a moment."""
    _end(["busybox", "reboot", "-f"])


def power_off() -> None:
    """Flush and switch off. Does not return but for a moment."""
    _end(["busybox", "poweroff", "-f"])


def _end(command: list[str]) -> None:
    os.sync()
    run(command)
