"""What a TFTP client may ask for beside the file, and what it gets (RFC 2347, 2348, 2349, 7440). Pure.

An option that is unknown, out of range or no number is left out of the answer, which tells the client that it was
ignored (RFC 2347, section 3). A value that we may lower is lowered to our limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_BLOCK_BYTES = 512
_BLOCK_BYTES = range(8, 65465)
"""RFC 2348."""
_WINDOW_BLOCKS = range(1, 65536)
"""RFC 7440, section 3."""
_TIMEOUT_S = range(1, 31)
"""RFC 2349 allows 255, and to lower it is not allowed; we ignore what would hold a transfer open for minutes."""
_MAX_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a client gets."""

    block_bytes: int = 1468
    """What fits an Ethernet frame: 1,500 less 20 IPv4, 8 UDP, 4 TFTP. Larger blocks would travel as fragments."""
    window_blocks: int = 64
    window_bytes: int = 256 * 1024
    """Bounds the memory of one transfer."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed for one transfer."""

    block_bytes: int = DEFAULT_BLOCK_BYTES
    window_blocks: int = 1
    timeout_s: int | None = None
    """Fixed time to a retransmission, when the client set it."""
    rollover: int | None = None
    """The number after 65535, 0 or 1, when the client named it. No RFC: tftpd-hpa's option, and its clients'."""
    accepted: Mapping[str, str] = field(default_factory=dict)
    """For the option acknowledgement; empty: none is sent."""


def negotiate(options: Mapping[str, str], size: int, limits: Limits) -> Terms:
    """Agree on the options of a read request for `size` bytes. Names are in lower case."""
    accepted: dict[str, str] = {}
    block_bytes = DEFAULT_BLOCK_BYTES
    window_blocks = 1
    timeout_s = None
    asked = _number(options.get("blksize"))
    if asked in _BLOCK_BYTES:
        block_bytes = min(asked, limits.block_bytes)
        accepted["blksize"] = str(block_bytes)
    asked = _number(options.get("timeout"))
    if asked in _TIMEOUT_S:
        timeout_s = asked
        accepted["timeout"] = str(asked)
    if size and _number(options.get("tsize")) >= 0:  # of an empty file left out: curl 7.88 refuses a tsize of 0
        accepted["tsize"] = str(size)
    asked = _number(options.get("windowsize"))
    if asked in _WINDOW_BLOCKS:
        window_blocks = min(asked, limits.window_blocks, max(1, limits.window_bytes // block_bytes))
        accepted["windowsize"] = str(window_blocks)
    rollover = _number(options.get("rollover"))
    if rollover in (0, 1):
        accepted["rollover"] = str(rollover)
    return Terms(block_bytes, window_blocks, timeout_s, rollover if rollover in (0, 1) else None, accepted)


def _number(value: str | None) -> int:
    """-1 when absent or not a plain decimal number."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        return -1
    return int(value)
