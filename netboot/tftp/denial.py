"""Which modes are served, and what a client is told that does not get its file (RFC 1350, sections 1 and 5). Pure."""

from dataclasses import dataclass

from netboot.model import Ignored
from netboot.wire.tftp import ErrorCode

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Text is converted in memory as a whole; nothing that boots is text of more than this."""


@dataclass(frozen=True, slots=True)
class Denial:
    """The error packet instead of the file."""

    code: ErrorCode
    text: str
    """For the screen of the machine: says nothing of what the appliance has."""


NOT_SERVED = Denial(ErrorCode.FILE_NOT_FOUND, "not served: the appliance's log says why")
MODE_NOT_SERVED = Denial(ErrorCode.ILLEGAL_OPERATION, "mode is not served: ask for octet")
FAILED = Denial(ErrorCode.NOT_DEFINED, "the appliance failed: its log says why")
NOT_OPENED_IN_TIME = Denial(ErrorCode.NOT_DEFINED, "the appliance is busy")


def judge_mode(mode: str) -> Ignored | None:
    """The reason why a mode, in lower case, is not served."""
    return None if mode in ("octet", "netascii") else Ignored(f"mode is not served: {mode!r}")


def judge_text(size: int) -> Ignored | None:
    """The reason why a file of `size` bytes is not served as text."""
    return None if size <= MAX_TEXT_BYTES else Ignored(f"too large for netascii: {size} bytes")
