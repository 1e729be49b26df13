"""The consoles of the machine: a panel on its screen, lines on its serial ports. Also keeps the last log lines.

A console that cannot be written is left alone: nobody watching must not keep a machine from its image.
"""

import dataclasses
import fcntl
import os
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from imager.agent.panel import PanelState, changed, describe_progress, plain, render
from imager.wire.messages import Progress

LOG_LINES = 60
LINE_EVERY_S = 5.0
"""How often a serial console gets a line of progress."""


class Console:
    """Shows one state on all consoles. Every method may be called from any thread."""

    def __init__(
        self,
        screens: Sequence[int],
        lines: Sequence[int],
        state: PanelState,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """screens, lines: open file descriptors of text consoles and of serial ports."""
        self._screens = list(screens)
        self._lines = list(lines)
        self._state = state
        self._clock = clock
        self._shown: dict[int, list[str]] = {}
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._lock = threading.Lock()
        self._last_progress_s = clock()
        for screen in self._screens:
            # No cursor, no blanking after ten minutes (console_codes(4)).
            _write(screen, b"\x1b[?25l\x1b[9;0]\x1b[14;0]")

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        with self._lock:
            return tuple(self._log)

    def say(self, text: str) -> None:
        """One line of the log: kept, and written to the serial consoles at once."""
        with self._lock:
            for line in map(plain, text.splitlines() or [""]):
                stamped = f"[{self._clock():8.2f}] {line}"
                self._log.append(stamped)
                for port in self._lines:
                    _write(port, f"{stamped}\r\n".encode())
            self._draw()

    def show(self, **fields: object) -> None:
        """Change fields of the panel's state."""
        with self._lock:
            self._state = dataclasses.replace(self._state, **fields)  # type: ignore[arg-type]
            self._draw()

    def show_progress(self, progress: Progress, phases: dict[str, float]) -> None:
        """Call this every second or so."""
        with self._lock:
            self._state = dataclasses.replace(self._state, progress=progress, phases=phases)
            self._draw()
            now = self._clock()
            if now - self._last_progress_s >= LINE_EVERY_S and progress.step:
                self._last_progress_s = now
                for port in self._lines:
                    _write(port, f"[{now:8.2f}] {describe_progress(progress)}\r\n".encode())

    def _draw(self) -> None:
        state = dataclasses.replace(self._state, log=tuple(self._log), uptime_s=self._clock())
        for screen in self._screens:
            columns, rows = _size(screen)
            # The last row stays free: a kernel message that scrolls the screen would tear the panel.
            lines = render(state, columns, rows - 1)
            _write(screen, changed(self._shown.get(screen, []), lines).encode())
            self._shown[screen] = lines


def open_consoles(root: Path = Path("/")) -> tuple[list[int], list[int]]:
    """The consoles of the kernel command line: text screens, and the others that get lines."""
    try:
        names = (root / "sys/class/tty/console/active").read_text().split()
    except OSError:
        names = ["tty0"]
    screens: list[int] = []
    lines: list[int] = []
    for name in names:
        try:
            descriptor = os.open(root / "dev" / name, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            continue
        (screens if name[3:].isdigit() and name.startswith("tty") else lines).append(descriptor)
    return screens, lines


def _size(screen: int) -> tuple[int, int]:
    """Columns and rows."""
    try:
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(screen, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return 80, 25
    return (columns or 80), (rows or 25)


def _write(descriptor: int, data: bytes) -> None:
    """All of it, or what fits when nobody reads a serial line: it must never hold the work up."""
    view = memoryview(data)
    tries = 0
    while view and tries < 50:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            tries += 1
            time.sleep(0.005)
        except OSError:
            return
