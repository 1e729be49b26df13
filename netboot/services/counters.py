"""Counters of one packet service, for the page, the API and the log."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

_MAX_REASONS = 100


@dataclass(slots=True)
class PacketCounters:
    """Written by the service, read by whoever likes."""

    received: int = 0
    junk: int = 0
    """Datagrams that do not parse."""
    answered: Counter[str] = field(default_factory=Counter)
    """By kind of answer."""
    ignored: Counter[str] = field(default_factory=Counter)
    """By reason, without what varies."""
    failed: Counter[str] = field(default_factory=Counter)
    """Answers that could not be sent or made, by cause."""

    def ignore(self, reason: str) -> None:
        """Count under what stands before the first colon; at most 100 reasons are told apart."""
        key = reason.split(":", 1)[0]
        if key not in self.ignored and len(self.ignored) >= _MAX_REASONS:
            key = "other"
        self.ignored[key] += 1

    def tree(self) -> dict[str, Any]:
        """As JSON can tell it."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values}

    def ignored_by_reason(self) -> dict[str, int]:
        """All that got no answer, the most frequent first."""
        counted = self.ignored + self.failed + Counter({"not of this protocol": self.junk})
        return dict(counted.most_common())
