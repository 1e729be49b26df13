"""The settings that hold at this moment, and what a reload makes of new ones. Pure."""

import dataclasses
from dataclasses import dataclass

from netboot.config.keys import KEYS
from netboot.config.settings import Settings
from netboot.config.shown import shown


class CurrentSettings:
    """Whoever must follow a reload asks this one each time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is not what it was."""

    key: str
    """As in the file."""
    old: str
    new: str
    live: bool
    """Takes effect at once; else at the next start."""


def find_changes(old: Settings, new: Settings) -> list[Change]:
    """In the order of the table of settings."""
    return [
        Change(key.name, shown(before), shown(after), key.live)
        for key in KEYS
        if (before := getattr(old, key.field)) != (after := getattr(new, key.field))
    ]


def take_live(old: Settings, new: Settings) -> Settings:
    """`old` with what takes effect at once from `new`."""
    return dataclasses.replace(old, **{key.field: getattr(new, key.field) for key in KEYS if key.live})
