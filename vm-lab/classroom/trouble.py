"""What goes wrong in the middle of a cast, on purpose: a machine's power, the sender's process, the whole appliance.

Says only what is due when; the scenario does it.
"""

from enum import StrEnum
from typing import Any


class Trouble(StrEnum):
    """In the order in which they come."""

    POWER = "the power of a machine is cut"
    SENDER = "the sender's process is killed"
    APPLIANCE = "the appliance is killed and started again"


_AT = {Trouble.POWER: 0.15, Trouble.SENDER: 0.35, Trouble.APPLIANCE: 0.6}
"""Share of the image that the machine which is furthest has received by then."""
RATE = "60m"
"""Of a cast that lasts long enough for all of them."""


class Troubles:
    """Those that are still to come."""

    def __init__(self) -> None:
        self._left = list(Trouble)

    def due(self, session: dict[str, Any]) -> Trouble | None:
        """The next one, when the session, as the API tells it, has come so far."""
        shares = [_received(task["progress"]) for task in session["tasks"] if task["progress"]]
        if not self._left or max(shares, default=0.0) < _AT[self._left[0]]:
            return None
        return self._left.pop(0)

    @property
    def all_came(self) -> bool:
        return not self._left


def _received(progress: dict[str, Any]) -> float:
    total: int = progress["chunks_total"]
    return progress["chunks_done"] / total if progress["step"] == "receive" and total else 0.0
