"""Progress of a file cast on a terminal: a line on standard error, redrawn; nothing when it is not a terminal.

By hand, not by rich: importing that takes longer than casting a small file.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imager.transport.file_cast import FileCastProgress

REDRAW_S = 0.2


@contextmanager
def file_progress(quiet: bool) -> Iterator["Callable[[FileCastProgress], None] | None"]:
    """What is told while the file goes; None when nobody sees it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    drawn_s = 0.0

    def tell(progress: "FileCastProgress") -> None:
        nonlocal drawn_s
        now = time.monotonic()
        if now - drawn_s < REDRAW_S:
            return
        drawn_s = now
        share = f" {100 * progress.done_bytes / progress.total_bytes:5.1f} %" if progress.total_bytes else ""
        sys.stderr.write(f"\r\x1b[K{progress.step}{share}")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        sys.stderr.write("\r\x1b[K")
