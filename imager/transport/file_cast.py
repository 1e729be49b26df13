"""One file to any number of machines, found by themselves: what `roomcast send` and `roomcast receive` do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DISCOVERY_GROUP = "239.77.0.1"
DISCOVERY_PORT = 7710


@dataclass(frozen=True, slots=True)
class FileCastProgress:
    """How far a file cast is."""

    step: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class SendResult:
    """How a sending ended."""

    receivers_done: int
    failed: dict[str, str]
    file_bytes: int
    sent_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """What was received."""

    output: Path
    file_bytes: int
    elapsed_s: float


ProgressCallback = Callable[[FileCastProgress], None]


def send_file(
    path: Path,
    *,
    interface: str | None = None,
    min_receivers: int = 1,
    max_wait_s: float = 0,
    max_bitrate_bps: int = 0,
    group: str = "",
    port: int = 0,
    ttl: int = 1,
    silence_timeout_s: float = 30,
    on_progress: ProgressCallback | None = None,
) -> SendResult:
    raise NotImplementedError


def receive_file(
    output: Path,
    *,
    interface: str | None = None,
    max_wait_s: float = 0,
    on_progress: ProgressCallback | None = None,
) -> ReceiveResult:
    raise NotImplementedError
