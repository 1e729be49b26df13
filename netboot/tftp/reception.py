"""Who may start a transfer: what comes to the request port, and what strangers send to a transfer's port. Pure.

Every source has a bucket of tokens: a packet that is answered, or starts something, costs one. So one host takes
neither the transfers nor the time of the others, and a forged source draws few packets. Junk costs nothing but itself.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Protocol

from netboot.errors import WireError
from netboot.model import Ignored
from netboot.wire.tftp import Error, ErrorCode, ReadRequest, WriteRequest, build_error, parse_tftp

Address = tuple[str, int]

MAX_TRANSFERS = 512
MAX_TRANSFERS_PER_PEER = 32
REQUESTS_PER_S = 50
"""Of one source, in the long run: GRUB asks for some dozens of files in a row."""
REQUESTS_AT_ONCE = 200
MAX_SOURCES = 4096
"""Whose buckets are kept; the source that was silent longest is forgotten."""


class Running(Protocol):
    """A transfer, or its start."""

    @property
    def is_confirmed(self) -> bool:
        """The client answered since its request."""


@dataclass(frozen=True, slots=True)
class Replaces:
    """A request from the port of a transfer that runs: its client started anew."""

    request: ReadRequest


@dataclass(frozen=True, slots=True)
class Refused:
    """Answered with an error."""

    answer: bytes
    reason: str


class Reception:
    """Judges packets; holds what runs. `started` and `ended` tell it."""

    def __init__(self, max_transfers: int = MAX_TRANSFERS, per_peer: int = MAX_TRANSFERS_PER_PEER) -> None:
        self._max_transfers = max_transfers
        self._per_peer = per_peer
        self._running: dict[Address, tuple[ReadRequest, Running]] = {}
        self._running_of: Counter[str] = Counter()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Of a host: tokens left, and when that was."""

    def started(self, source: Address, request: ReadRequest, running: Running) -> None:
        self._running[source] = (request, running)
        self._running_of[source[0]] += 1

    def ended(self, source: Address) -> None:
        if self._running.pop(source, None) is not None:
            self._running_of[source[0]] -= 1
            if not self._running_of[source[0]]:
                del self._running_of[source[0]]

    def receive_request(self, data: bytes, source: Address, now: float) -> ReadRequest | Replaces | Refused | Ignored:
        """Judge a datagram to the request port. WireError when it is no TFTP."""
        packet = parse_tftp(data)
        if isinstance(packet, Error):
            return Ignored("error to the request port")
        if not self._take_token(source[0], now):
            return Ignored("too many requests of one host")
        if isinstance(packet, WriteRequest):
            return Refused(build_error(ErrorCode.ACCESS_VIOLATION, "this server is read only"), "write request")
        if not isinstance(packet, ReadRequest):
            return Refused(build_error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer"), "no request")
        if (known := self._running.get(source)) is not None:
            request, running = known
            if request == packet and not running.is_confirmed:
                return Ignored("repeated request")  # the transfer that runs sends its first packet again itself
            return Replaces(packet)
        if len(self._running) >= self._max_transfers or self._running_of[source[0]] >= self._per_peer:
            return Ignored("too many transfers")  # no answer: the client asks again after its timeout
        return packet

    def receive_stray(self, data: bytes, source: Address, now: float) -> Refused | Ignored:
        """Judge a datagram to a transfer's port from another address than its client's (RFC 1350, section 4)."""
        try:
            packet = parse_tftp(data)
        except WireError:
            return Ignored("not TFTP")
        if isinstance(packet, Error):
            return Ignored("from another address")
        if not self._take_token(source[0], now):
            return Ignored("too many requests of one host")
        return Refused(build_error(ErrorCode.UNKNOWN_TRANSFER_ID, "unknown transfer"), "from another address")

    def _take_token(self, host: str, now: float) -> bool:
        tokens, since = self._buckets.pop(host, (float(REQUESTS_AT_ONCE), now))
        tokens = min(REQUESTS_AT_ONCE, tokens + (now - since) * REQUESTS_PER_S)
        allowed = tokens >= 1
        self._buckets[host] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        return allowed
