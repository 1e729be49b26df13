"""The operator's one limit for all that a file's sending puts on the network: its cast, and what goes by TCP. Pure.

While both send, each has half; what sends alone has all of it. No I/O.
"""

FETCHING_S = 5.0
"""TCP has its half until nothing was fetched for so long."""
_TCP_FRAME_SHARE = 1.08
"""Bytes of frames a byte by TCP: 78 of headers in each segment of 1,180."""


class Budget:
    """Bits of frames a second. Not for several threads."""

    def __init__(self, max_bitrate_bps: int) -> None:
        """0: no limit."""
        self._max_bps = max_bitrate_bps
        self._fetched_at = -FETCHING_S
        self._free_at = 0.0

    def cast_bps(self, now: float) -> int:
        """What may be cast at most; 0: no limit."""
        return -(-self._max_bps // 2) if self._is_fetched(now) else self._max_bps

    def fetch(self, count: int, casts: bool, now: float) -> float:
        """When `count` bytes may be given by TCP, which are accounted for; `casts`: the cast is under way."""
        if not self._max_bps:
            return now
        bytes_s = self._max_bps / (2 if casts else 1) / 8
        start = max(now, self._free_at)
        self._free_at = start + count * _TCP_FRAME_SHARE / bytes_s
        self._fetched_at = max(now, start)
        return start

    def _is_fetched(self, now: float) -> bool:
        return now - self._fetched_at < FETCHING_S
