"""The appliance's log: one line an event on standard error, by structlog; the libraries' own warnings with it."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog


def set_up_logs(*, verbose: bool) -> None:
    """Once, before anything is logged."""
    level = logging.DEBUG if verbose else logging.INFO
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            structlog.processors.StackInfoRenderer(),
            replace_unprintable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s"
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_clean_record)


def replace_unprintable(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: text of strangers must not move the cursor or add lines of its own to the log."""
    for name, value in event.items():
        if name not in ("exception", "stack"):  # ours, and of several lines
            event[name] = _printable(value)
    return event


def _clean_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = _printable(record.getMessage()), ()
    return True


def _printable(value: Any) -> Any:
    """The same, with every character of its texts that is not printable written as a question mark in a diamond."""
    match value:
        case str():
            return (
                value
                if value.isprintable()
                else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
            )
        case bool() | int() | float() | None:
            return value
        case Mapping():
            return {_printable(name): _printable(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_printable(item) for item in value]
        case _:
            return value
