"""[P] Who may be meant by what an administrator typed: by the beginning of a system UUID, or a name much alike."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from netboot.deployment.records import Machine

MOST_NEAR = 3
_UUID_START = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}")


def by_uuid(text: str, machines: Sequence[Machine]) -> list[Machine]:
    """The machines whose system UUID begins so; four digits at least, in either case."""
    start = text.lower()
    if not _UUID_START.fullmatch(start):
        return []
    return [machine for machine in machines if machine.inventory.system_uuid.lower().startswith(start)]


def near_names(text: str, names: Sequence[str]) -> list[str]:
    """Names much like this one, and those that hold it, the nearest first."""
    asked = text.lower()
    near = get_close_matches(asked, names, MOST_NEAR)
    return [*near, *(name for name in names if len(asked) > 2 and asked in name and name not in near)][:MOST_NEAR]
