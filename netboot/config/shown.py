"""Values of settings as JSON has them, and as a person reads them. Pure."""

import dataclasses
from typing import Any


def plain(value: Any) -> Any:
    """As JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.hex(":")
    return value if value is None or isinstance(value, int | float) else str(value)


def shown(value: Any) -> str:
    """On one line."""
    value = plain(value)
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={shown(item)}" for name, item in value.items() if item not in ("", None, []))
    return "" if value is None else str(value)
