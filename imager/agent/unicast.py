"""Chunks one by one from the appliance, over the agent's own channel: for a machine that no cast reaches.

They pass the same checks as those of a cast: see intake.py.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from imager.transport.receive import ReceivedChunk
from imager.wire.session import Holdup

AHEAD = 8
"""Chunks that are fetched and not yet released: what bounds the memory."""
_ASK_S = 0.5


class UnicastSource:
    """A source of chunks (imager.transport.workers.Source) that fetches each by its number.

    One thread goes through chunks(); release() may be called from any.
    """

    def __init__(self, fetch: Callable[[int], bytes], wanted: Sequence[int]) -> None:
        """`fetch` gives the stored bytes of a chunk, and raises what ends the receiving."""
        self._fetch = fetch
        self._waiting = deque(wanted)
        self._out = 0
        self._changed = threading.Condition()

    def chunks(self, ask_holdup: Callable[[], Holdup]) -> Iterator[ReceivedChunk]:
        """Every wanted chunk, until each was released with ok; one that was not comes again."""
        while True:
            with self._changed:
                while self._out == AHEAD or (self._out and not self._waiting):
                    if not self._changed.wait(_ASK_S):
                        ask_holdup()
                if not self._waiting:
                    return
                index = self._waiting.popleft()
            ask_holdup()
            data = self._fetch(index)
            with self._changed:
                self._out += 1
            yield ReceivedChunk(index, memoryview(data))

    def release(self, index: int, ok: bool) -> None:
        """A chunk was taken; ok False: it is fetched again."""
        with self._changed:
            self._out -= 1
            if not ok:
                self._waiting.append(index)
            self._changed.notify()
