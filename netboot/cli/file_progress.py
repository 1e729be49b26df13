"""What a file cast tells while it goes: a bar on standard error, redrawn, or one JSON object a line for programs.

By hand, not by rich: importing that takes longer than casting a small file.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from imager.transport.file_cast import FileCastNote, FileCastProgress

REDRAW_S = 0.2
TELL_S = 1.0
"""Between two lines of progress in JSON, of one step."""
_BAR = 24
_ERASE = "\r\x1b[K"
_SHOWN_NOTES = ("failed", "unicast", "passed over")
_UNITS = ("B", "kB", "MB", "GB", "TB")

Tellers = tuple["Callable[[FileCastProgress], None] | None", "Callable[[FileCastNote], None]"]


@contextmanager
def file_progress(quiet: bool, as_json: bool, json_to: TextIO = sys.stdout) -> Iterator[Tellers]:
    """Who is told how far it is, and what happened."""
    if as_json:
        told = _JsonLines(json_to)
        yield told.progress, told.note
        return
    bar = _Bar(drawn=not quiet and sys.stderr.isatty())
    try:
        yield bar.progress, bar.note
    finally:
        bar.erase()


def json_line(event: str, values: dict[str, Any], to: TextIO) -> None:
    """One event."""
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    print(json.dumps({"event": event, **shown}), file=to, flush=True)


class _JsonLines:
    """Called by several threads: a line goes out by one write."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._step = ""
        self._told_s = 0.0

    def progress(self, progress: "FileCastProgress") -> None:
        now = time.monotonic()
        if progress.step == self._step and now - self._told_s < TELL_S:
            return
        self._step, self._told_s = progress.step, now
        json_line("progress", asdict(progress), self._to)

    def note(self, note: "FileCastNote") -> None:
        values = {"text": note.text, "receiver": note.receiver} if note.receiver else {"text": note.text}
        json_line(note.what, values, self._to)


class _Bar:
    def __init__(self, drawn: bool) -> None:
        self._is_drawn = drawn
        self._drawn_s = 0.0
        self._step = ""
        self._step_s = 0.0
        self._step_bytes = 0

    def progress(self, progress: "FileCastProgress") -> None:
        now = time.monotonic()
        if not self._is_drawn or (now - self._drawn_s < REDRAW_S and progress.step == self._step):
            return
        if progress.step != self._step:
            self._step, self._step_s, self._step_bytes = progress.step, now, progress.done_bytes
        self._drawn_s = now
        sys.stderr.write(_ERASE + self._line(progress, now))
        sys.stderr.flush()

    def _line(self, progress: "FileCastProgress", now: float) -> str:
        parts = [f"{progress.step:8}"]
        if progress.total_bytes:
            share = min(1.0, progress.done_bytes / progress.total_bytes)
            full = round(_BAR * share)
            parts.append(f"[{'#' * full}{'.' * (_BAR - full)}] {100 * share:5.1f} %")
            parts.append(f"{_bytes(progress.done_bytes)} of {_bytes(progress.total_bytes)}")
            taken_s, done = now - self._step_s, progress.done_bytes - self._step_bytes
            if taken_s > 0.5 and done > 0:
                left_s = (progress.total_bytes - progress.done_bytes) * taken_s / done
                parts.append(f"{done * 8 / 1e6 / taken_s:,.0f} Mbit/s")
                parts.append(f"{int(left_s) // 60}:{int(left_s) % 60:02} left")
        if progress.receivers:
            parts.append(f"{progress.receivers} receiver{'s' * (progress.receivers != 1)}")
        if progress.sent_bps:
            parts.append(f"sends {progress.sent_bps / 1e6:,.0f} Mbit/s: {progress.held_by}")
        return "  ".join(parts)

    def note(self, note: "FileCastNote") -> None:
        """What a person should know; results have their own lines at the end."""
        from netboot.bootlog.words import shown

        if note.what in _SHOWN_NOTES:
            self.erase()
            who = f"{note.receiver}: " if note.receiver else ""
            print(f"roomcast: {shown(who + note.text)}", file=sys.stderr)

    def erase(self) -> None:
        if self._is_drawn:
            sys.stderr.write(_ERASE)


def _bytes(count: float) -> str:
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.3g} {unit}"
