"""The log of the appliance: text of strangers stays text."""

import io
import logging

import structlog

from netboot.cli.logs import replace_unprintable, set_up_logs

NASTY = "x\x1b]0;owned\x07\x1b[2J\x9b31m\n2026-01-01 [info] forged\u202e"


def test_no_value_of_a_log_line_moves_the_cursor_or_makes_another_line() -> None:
    event = {
        "event": NASTY,
        "path": NASTY,
        "machines": [NASTY, "pc-1"],
        "counts": {NASTY: NASTY},
        "nested": ({"deep": NASTY},),
        "port": 7,
        "ok": True,
        "exception": "Traceback\n  line",
    }
    output = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(output),
        processors=[replace_unprintable, structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)],
    )
    logger.info(**event)
    text = output.getvalue()
    first, *rest = text.splitlines()
    assert first.isprintable() and "owned" in first and "pc-1" in first and "port=7" in first
    assert rest == ["Traceback", "  line"]


def test_lines_of_libraries_are_cleaned_too() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    kept = root.handlers[:]
    root.handlers[:] = [handler]
    try:
        set_up_logs(verbose=False)
        logging.getLogger("uvicorn.error").warning("bad request %s", NASTY)
    finally:
        root.handlers[:] = kept
        structlog.reset_defaults()
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().rstrip("\n").isprintable()
