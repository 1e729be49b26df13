"""What the doctor found: one sentence each, and the next thing to do. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LONGEST_QUOTE = 80
"""Characters of a stranger's text that are shown."""


class Severity(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong; good to know, or could not be looked at."""
    WARNING = "warning"
    """Works now or for some machines; will hurt."""
    PROBLEM = "problem"
    """Machines do not boot, or are not imaged, because of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Name of the check, as `--only` takes it."""
    severity: Severity
    text: str
    """A sentence, without a full stop. Text of strangers in it went through `quoted`."""
    action: str = ""
    """The next thing to do; empty when there is nothing."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs: JSON values."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Makes the findings of one check."""

    check: str

    def ok(self, text: str, **facts: Any) -> Finding:
        return Finding(self.check, Severity.OK, text, "", facts)

    def note(self, text: str, action: str = "", **facts: Any) -> Finding:
        return Finding(self.check, Severity.NOTE, text, action, facts)

    def warning(self, text: str, action: str, **facts: Any) -> Finding:
        return Finding(self.check, Severity.WARNING, text, action, facts)

    def problem(self, text: str, action: str, **facts: Any) -> Finding:
        return Finding(self.check, Severity.PROBLEM, text, action, facts)


def count_by_severity(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Every severity, also those that do not occur."""
    counts = dict.fromkeys(Severity, 0)
    for finding in findings:
        counts[finding.severity] += 1
    return counts


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when there is a problem, else 0: warnings do not fail a script."""
    return int(any(finding.severity is Severity.PROBLEM for finding in findings))


def as_tree(finding: Finding) -> dict[str, Any]:
    """For JSON."""
    return {
        "check": finding.check,
        "severity": str(finding.severity),
        "text": finding.text,
        "action": finding.action,
        "facts": dict(finding.facts),
    }


def quoted(text: str) -> str:
    """Text that another machine sent, fit for a terminal: what is not printable becomes a backslash escape, and a long
    text is cut. Quotes and backslashes of its own are escaped too, so it cannot seem to end."""
    shown = "".join(_escaped(c) for c in text[:LONGEST_QUOTE])
    return f'"{shown}{"..." if len(text) > LONGEST_QUOTE else ""}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
