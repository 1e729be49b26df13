"""A mistake in the settings, with its place, and the error that tells all of them. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from netboot.config.toml_lines import Path
from netboot.errors import UserError


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong."""

    where: str
    """FILE:LINE, a variable, or a flag."""
    key: str
    """As `spell` writes it; empty: the file as a whole."""
    problem: str
    example: str = ""
    """What would be right."""

    def __str__(self) -> str:
        parts = [part for part in (self.where, self.key) if part]
        example = f"; for example {' '.join(self.example.split())}" if self.example else ""
        return f"{': '.join(parts)}: {self.problem}{example}"


class ConfigError(UserError):
    """Every mistake in the settings, in the order of their places."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: _order(mistake.where)))
        super().__init__("settings: " + "; ".join(str(mistake) for mistake in self.mistakes))

    def lines(self) -> tuple[str, ...]:
        return tuple(map(str, self.mistakes))


def spell(path: Path) -> str:
    """`subnet[2].pools[1]`: elements are counted from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part)
            text += f".{name}" if text else name
    return text


def _order(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (where, 0)
