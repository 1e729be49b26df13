"""What a person in front of the machine sees."""

import os
import pty
import re
import select

import pytest

from imager.agent.console import Console
from imager.agent.panel import PanelState, changed, clip, describe_progress, describe_time, plain, render, wrap
from imager.agent.progress import Meter, seconds_left, share_done
from imager.wire.messages import Progress

STEPS = ("preflight", "scan", "receive", "verify")


def a_state(**changes: object) -> PanelState:
    fields: dict[str, object] = {
        "machine": "lab-01",
        "version": "0.1.0",
        "facts": ("QEMU Standard PC, BIOS", "10.77.0.12"),
        "headline": "Deploying office version 3",
        "steps": STEPS,
        "phases": {"preflight": 0.42, "scan": 12.0, "receive": 31.0},
        "progress": Progress("receive", 610_000_000, 1_000_000_000, 118_000_000.0),
        "log": tuple(f"[    1.00] line {i}" for i in range(30)),
        "uptime_s": 3725.0,
    }
    return PanelState(**{**fields, **changes})  # type: ignore[arg-type]


def visible(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read_all(descriptor: int) -> str:
    data = b""
    while select.select([descriptor], [], [], 0.05)[0]:
        data += os.read(descriptor, 65536)
    return data.decode()


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (80, 25), (100, 36), (128, 47), (40, 12), (240, 66)])
def test_the_panel_fills_the_screen_and_never_more(columns: int, rows: int) -> None:
    lines = visible(render(a_state(), columns, rows))
    assert len(lines) == rows
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert "lab-01" in text and "Deploying office version 3" in text


def test_the_panel_tells_step_percent_rate_and_time_left() -> None:
    text = "\n".join(visible(render(a_state(), 80, 24)))
    assert re.search(r"√ preflight +0\.4 s", text)
    assert re.search(r"► receive +31 s", text)
    assert "61 %   118.0 MB/s  0:03 left" in text
    assert "up 1:02:05" in text
    assert "line 29" in text


def test_what_is_waited_for_is_told_below_the_bar_and_on_serial_lines() -> None:
    progress = Progress("receive", 610_000_000, 1_000_000_000, 0.0, note="waits for \x1b[2Jthe appliance")
    lines = visible(render(a_state(progress=progress), 80, 24))
    bar = next(number for number, line in enumerate(lines) if "61 %" in line)
    assert lines[bar + 1].strip() == "waits for the appliance"
    assert describe_progress(progress) == "receive 61 %, 0.0 MB/s, waits for the appliance"


def test_a_failure_is_wrapped_not_cut() -> None:
    reason = "/dev/sda has 4294967296 bytes, image golden needs 8589934592 (4294967296 more); nothing was written"
    text = " ".join(" ".join(visible(render(a_state(failed=True, headline="Failed", detail=reason), 80, 24))).split())
    assert reason in text
    assert "x receive" in text


def test_only_characters_of_the_consoles_own_font_are_shown() -> None:
    for state in (a_state(), a_state(failed=True, detail="no")):
        # The triangle is number 16 of the code page, which Python takes for a control character.
        "".join(visible(render(state, 80, 24))).replace("►", "").encode("cp437")


def test_only_lines_that_changed_are_drawn_again() -> None:
    before = ["one", "two", "three"]
    assert changed(before, before) == ""
    drawn = changed(before, ["one", "TWO", "three"])
    assert "TWO" in drawn and "one" not in drawn and "\x1b[2;1H" in drawn
    assert changed([], before).startswith("\x1b[2J")


def test_a_full_line_is_not_eaten_by_the_clearing_of_the_rest() -> None:
    drawn = changed([], ["x" * 80])
    assert drawn.index("\x1b[K") < drawn.index("x")


def test_text_of_other_programs_cannot_move_the_cursor() -> None:
    assert plain("\x1b[2Ja\x07b\rc\x9b2J\x1b]0;t") == "a b c 2J ]0;t"


def test_clipping_counts_what_is_seen() -> None:
    assert clip("\x1b[1mabc\x1b[0mdef", 4) == "\x1b[1mabc\x1b[0md"


def test_words_are_wrapped_and_long_ones_broken() -> None:
    assert wrap("a bb ccc", 4) == ["a bb", "ccc"]
    assert wrap("x" * 10, 4) == ["xxxx", "xxxx", "xx"]
    assert wrap("", 4) == [""]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (3750, "1:02:30")])
def test_times_are_written_as_on_a_clock(seconds: float, text: str) -> None:
    assert describe_time(seconds) == text


def test_a_step_without_bytes_has_no_percent() -> None:
    assert describe_progress(Progress("customise", 0, 0, 0.0)) == "customise"
    assert share_done(Progress("customise", 0, 0, 0.0)) is None


def test_a_stall_has_no_time_left() -> None:
    assert seconds_left(Progress("receive", 5, 10, 0.0)) is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.begin("receive", 10_000)
    for _ in range(30):
        clock.now += 1
        meter.advance(100, 1)
        meter.snapshot()
    assert meter.snapshot().rate_bytes_s == pytest.approx(100)
    for _ in range(30):
        clock.now += 1
        meter.snapshot()
    assert meter.snapshot().rate_bytes_s == 0
    assert (meter.snapshot().done_bytes, meter.snapshot().chunks_done) == (3000, 30)


def test_each_step_has_its_seconds_in_order() -> None:
    clock = Clock()
    meter = Meter(clock)
    for step, seconds in (("preflight", 1.5), ("scan", 4), ("receive", 10)):
        meter.begin(step)
        clock.now += seconds
    assert meter.phases() == {"preflight": 1.5, "scan": 4, "receive": 10}
    assert list(meter.end()) == ["preflight", "scan", "receive"]


def test_a_serial_console_gets_plain_lines_and_progress_now_and_then() -> None:
    ours, theirs = pty.openpty()
    clock = Clock()
    console = Console([], [theirs], a_state(), clock)
    console.say("two\nlines \x1b[2J")
    for _ in range(12):
        clock.now += 1
        console.show_progress(Progress("receive", 610, 1000, 118e6), {})
    lines = [line.strip() for line in read_all(ours).splitlines() if line.strip()]
    assert lines[:2] == ["[  100.00] two", "[  100.00] lines"]
    assert lines[2:] == [f"[  {at:.2f}] receive 61 %, 118.0 MB/s, 0:00 left" for at in (105, 110)]
    assert console.log == ("[  100.00] two", "[  100.00] lines ")


def test_a_screen_gets_the_panel() -> None:
    ours, theirs = pty.openpty()
    console = Console([theirs], [], a_state(), Clock())
    console.show(headline="Waiting for a task")
    text = read_all(ours)
    assert "\x1b[?25l" in text
    assert "Waiting for a task" in text


def test_a_console_that_is_gone_does_not_stop_the_agent() -> None:
    ours, theirs = pty.openpty()
    console = Console([theirs], [theirs], a_state(), Clock())
    os.close(ours)
    os.close(theirs)
    console.say("nobody sees this")
    assert console.log == ("[  100.00] nobody sees this",)
