"""The TFTP process's end of its talk with the appliance: what it asks and tells, what it counts, and what it is told.

Nothing waits here: what the socket has no room for is kept until it has, and only asking has a bound.
"""

import select
import socket
from collections import Counter, deque
from collections.abc import Iterator

from netboot.services.tftp_messages import Message, receive_message, send_message
from netboot.tftp.transfer import TransferEvent

COUNTERS_EVERY_S = 0.05
_MAX_WAITING_MESSAGES = 4096
_MAX_SENDERS = 40
"""Whose ignored packets are told by sender in one message of counters; it has room for them."""
_LONGEST_REASON = 100


class ApplianceLink:
    """Messages to the appliance and from it, over a control socket that `epoll` watches."""

    def __init__(self, control: socket.socket, epoll: select.epoll) -> None:
        self._control = control
        self._epoll = epoll
        self._outgoing: deque[Message] = deque()
        self._received = 0
        self._junk = 0
        self._ignored: Counter[str] = Counter()
        self._ignored_of: Counter[tuple[str, str]] = Counter()
        """The same of each sender, as many as are told apart between two messages."""
        self._failed: Counter[str] = Counter()
        self._counted_s = 0.0
        self.is_dirty = False
        """Something was counted that is not told yet: `tell_counters_when_due` is due within COUNTERS_EVERY_S."""
        self.is_over = False
        """The appliance has ended."""
        epoll.register(control.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._control.fileno()

    # What is told

    def tell_ready(self) -> None:
        self._tell({"ready": True})

    def ask_file(self, number: int, peer: str, path: str, mode: str) -> bool:
        """Have the appliance open a file; False when too much waits already."""
        if len(self._outgoing) >= _MAX_WAITING_MESSAGES:
            return False
        self._tell({"open": number, "peer": peer, "path": path, "mode": mode})
        return True

    def tell_start(self, number: int, size: int) -> None:
        self._tell({"started": number, "size": size})

    def tell_end(self, number: int, event: TransferEvent, seconds: float, block_bytes: int, blocks: int) -> None:
        """Of each file that was asked for there is one end, unless the appliance itself denied it."""
        fields = {name: getattr(event, name) for name in event.__slots__}
        self._tell({
            "ended": number, "outcome": type(event).__name__, "fields": fields, "seconds": seconds,
            "block_bytes": block_bytes, "blocks": blocks,
        })  # fmt: skip

    def flush(self) -> None:
        """Send what waits: when the control socket has room, or for the first message."""
        try:
            while self._outgoing:
                send_message(self._control, self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            self._epoll.modify(self._control.fileno(), select.EPOLLIN | select.EPOLLOUT)
            return
        except OSError:
            self._outgoing.clear()  # the appliance ended: the control socket tells in this turn or the next
        self._epoll.modify(self._control.fileno(), select.EPOLLIN)

    def _tell(self, message: Message) -> None:
        self._outgoing.append(message)
        if len(self._outgoing) == 1:
            self.flush()

    # What is counted

    def count_request(self) -> None:
        self._received += 1
        self.is_dirty = True

    def count_junk(self, sender: str, why: str) -> None:
        self._junk += 1
        self._note_sender(sender, why[:_LONGEST_REASON])
        self.is_dirty = True

    def count_ignored(self, reason: str, count: int = 1, sender: str = "") -> None:
        self._ignored[reason] += count
        if sender:
            self._note_sender(sender, reason)
        self.is_dirty = True

    def count_failed(self, cause: str) -> None:
        self._failed[cause] += 1
        self.is_dirty = True

    def tell_counters(self, now: float) -> None:
        """What was counted since they were told."""
        self._counted_s = now
        if not self.is_dirty or len(self._outgoing) >= _MAX_WAITING_MESSAGES:
            return  # they go on counting
        self._tell({
            "received": self._received, "junk": self._junk,
            "ignored": dict(self._ignored), "failed": dict(self._failed),
            "ignored_of": [[*key, count] for key, count in self._ignored_of.items()],
        })  # fmt: skip
        self._received = self._junk = 0
        self._ignored.clear()
        self._ignored_of.clear()
        self._failed.clear()
        self.is_dirty = False

    def tell_counters_when_due(self, now: float) -> None:
        if self.is_dirty and now - self._counted_s >= COUNTERS_EVERY_S:
            self.tell_counters(now)

    def _note_sender(self, sender: str, reason: str) -> None:
        key = (sender, reason)
        if key in self._ignored_of or len(self._ignored_of) < _MAX_SENDERS:
            self._ignored_of[key] += 1

    # What is heard

    def orders(self) -> Iterator[tuple[Message, list[int]]]:
        """The answers that have come, each with its descriptors: whoever takes one closes them."""
        while not self.is_over:
            try:
                received = receive_message(self._control)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self.is_over = True
            elif "alive" in received[0]:
                self._tell({"alive": received[0]["alive"]})
            else:
                yield received
