"""What a machine's screen shows while the agent works. Pure: a state goes in, lines of text come out.

Only characters of code page 437, which every text console has: a Linux console without a font of its own shows others
as blots.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from imager.agent.progress import seconds_left, share_done
from imager.wire.messages import Progress

RESET = "\x1b[0m"
TITLE = "\x1b[0;1;37;44m"
BOLD = "\x1b[0;1m"
DIM = "\x1b[0;37m"
GOOD = "\x1b[0;1;32m"
BAD = "\x1b[0;1;37;41m"
WRONG = "\x1b[0;1;31m"
BAR = "\x1b[0;1;36m"

DONE_MARK = "√"
NOW_MARK = "►"

MAX_DETAIL_LINES = 4

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_ANY_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class PanelState:
    """All that the screen tells."""

    machine: str
    """Name of the machine; empty before it is registered."""
    version: str
    facts: tuple[str, ...]
    """Lines about the machine: address, product, disk."""
    headline: str
    """What it does, for a person who walks by: `Deploying office version 3`."""
    detail: str = ""
    """Below the headline; long ones are wrapped."""
    failed: bool = False
    steps: tuple[str, ...] = ()
    """Of the task, in order."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps so far, the running one included."""
    progress: Progress | None = None
    log: tuple[str, ...] = ()
    uptime_s: float = 0.0


def render(state: PanelState, columns: int, rows: int) -> list[str]:
    """Exactly `rows` lines, each at most `columns` wide, with ANSI colours."""
    width = max(40, min(columns, 100))
    margin = " " * ((columns - width) // 2)
    title = f" Roomcast {state.version}  {state.machine or 'not registered yet'}"
    right = f"up {describe_time(state.uptime_s)} "
    lines = [
        TITLE + title[: columns - len(right)].ljust(columns - len(right)) + right + RESET,
        "",
        margin + ("  " + BAD + f" {state.headline} " if state.failed else "  " + BOLD + state.headline) + RESET,
    ]
    lines += [f"{margin}  {DIM}{line}{RESET}" for line in wrap(plain(state.detail), width - 4)[:MAX_DETAIL_LINES]]
    lines.append("")
    lines += [margin + line for line in _steps(state, width)]
    footer = [margin + DIM + "─" * width + RESET]
    footer += [margin + DIM + "  " + fact + RESET for fact in state.facts]
    space = rows - len(lines) - len(footer) - 1
    log = state.log[-space:] if space > 0 else ()
    lines.append("")
    lines += [margin + DIM + "  " + plain(line) + RESET for line in log]
    lines += [""] * (rows - len(lines) - len(footer))
    return [clip(line, columns) for line in (lines + footer)[:rows]]


def changed(before: Sequence[str], after: Sequence[str]) -> str:
    """The terminal's input that turns a screen of `before` into `after`. `before` empty: clear first."""
    out = [] if before else ["\x1b[2J"]
    for i, line in enumerate(after):
        if i >= len(before) or before[i] != line:
            # Cleared first: after a full line the cursor still stands on its last column, which would go.
            out.append(f"\x1b[{i + 1};1H{RESET}\x1b[K{line}{RESET}")
    return "".join(out)


def describe_progress(progress: Progress) -> str:
    """One line: `receive 61 %, 118 MB/s, 0:42 left`."""
    parts = [progress.step]
    share = share_done(progress)
    if share is not None:
        parts[0] += f" {int(share * 100)} %"
        parts.append(f"{progress.rate_bytes_s / 1e6:.1f} MB/s")
        left = seconds_left(progress)
        if left is not None:
            parts.append(f"{describe_time(left)} left")
    if progress.note:
        parts.append(plain(progress.note))
    return ", ".join(parts)


def describe_time(seconds: float) -> str:
    """0:42, 12:05, 1:02:30."""
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def clip(line: str, columns: int) -> str:
    """Cut to `columns` visible characters; escape sequences cost none and the last one always stays."""
    out: list[str] = []
    left = columns
    at = 0
    for match in _ESCAPE.finditer(line):
        text = line[at : match.start()][:left]
        out += [text, match[0]]
        left -= len(text)
        at = match.end()
    out.append(line[at:][:left])
    return "".join(out)


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most `columns`, broken between words where there are any; always at least one line."""
    lines = [""]
    for word in text.split():
        while len(word) > columns:
            room = columns - len(lines[-1]) - bool(lines[-1])
            lines[-1] += (" " if lines[-1] else "") + word[:room]
            word = word[room:]
            lines.append("")
        if len(lines[-1]) + bool(lines[-1]) + len(word) > columns:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines


def plain(text: str) -> str:
    """Text of other programs without what would move a terminal's cursor."""
    return _UNSAFE.sub(" ", _ANY_ESCAPE.sub("", text))


def _steps(state: PanelState, width: int) -> list[str]:
    now = state.progress.step if state.progress else ""
    lines: list[str] = []
    for step in state.steps:
        seconds = state.phases.get(step)
        taken = describe_duration(seconds) if seconds is not None else ""
        if step == now and state.progress is not None and not state.failed:
            lines.append(f"  {BAR}{NOW_MARK} {step:<11}{RESET} {taken:>8}")
            lines += _bar(state.progress, width)
            if state.progress.note:
                lines.append(f"    {BOLD}{plain(state.progress.note)}{RESET}")
        elif step == now and state.failed:
            lines.append(f"  {WRONG}x {step:<11}{RESET} {taken:>8}")
        elif seconds is not None:
            lines.append(f"  {GOOD}{DONE_MARK}{RESET} {step:<11} {taken:>8}")
        else:
            lines.append(f"  {DIM}  {step}{RESET}")
    return lines


def _bar(progress: Progress, width: int) -> list[str]:
    share = share_done(progress)
    if share is None:
        return []
    left = seconds_left(progress)
    numbers = f"{int(share * 100):>3} %  {progress.rate_bytes_s / 1e6:6.1f} MB/s"
    numbers += f"  {describe_time(left)} left" if left is not None else ""
    cells = max(10, width - 44)
    full = int(cells * share + 0.5)
    return [f"    {BAR}{'█' * full}{DIM}{'░' * (cells - full)}{RESET}  {BOLD}{numbers}{RESET}"]


def describe_duration(seconds: float) -> str:
    """Of a step: 0.4 s, 12 s, 3:20."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else describe_time(seconds)
