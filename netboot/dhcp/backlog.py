"""Packets that wait for their answer: who is next, and who goes without when all cannot be answered. Pure.

Whoever has an offer goes before newcomers, or exchanges would be begun and none be finished. Newcomers are taken the
newest first: when not all can be answered, some are answered at once, rather than all of them too late.
"""

from collections import deque
from typing import Generic, TypeVar

from netboot.wire.dhcp_options import MessageType

LATE_S = 1.0
"""An answer that comes later finds a client that has asked again (iPXE after 1 s; RFC 2131, section 4.1: after 4 s)."""
MOST = 1024
"""Of newcomers, and of others."""
NEWCOMER_EVERY = 4
"""One of so many answers is a newcomer's, whatever else is asked."""

T = TypeVar("T")


class Backlog(Generic[T]):
    """In order of arrival; `put` is called with times that never go back."""

    def __init__(self) -> None:
        self._newcomers: deque[tuple[float, T]] = deque()
        self._others: deque[tuple[float, T]] = deque()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._others)

    def put(self, kind: MessageType | None, item: T, now: float) -> list[T]:
        """Add a packet; what had to give way to it."""
        queue = self._newcomers if kind is MessageType.DISCOVER else self._others
        queue.append((now, item))
        return [queue.popleft()[1]] if len(queue) > MOST else []

    def take(self) -> T | None:
        """The next packet to be answered."""
        self._turn = (self._turn + 1) % NEWCOMER_EVERY
        if self._newcomers and (self._turn == 0 or not self._others):
            return self._newcomers.pop()[1]
        return self._others.popleft()[1] if self._others else None

    def take_late(self, now: float) -> list[T]:
        """What is not worth an answer any more."""
        late: list[T] = []
        for queue in (self._newcomers, self._others):
            while queue and now - queue[0][0] > LATE_S:
                late.append(queue.popleft()[1])
        return late
