"""Reload in the administrators' API."""

import dataclasses
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from netboot.reload import Reloaded


def add_reload(app: FastAPI, reload: Callable[[], Reloaded]) -> None:
    """Its path. ConfigError comes out as 400 with every mistake (bodies.py)."""

    @app.post("/api/v1/reload", tags=["appliance"])
    async def reload_settings() -> Any:
        """Read the settings again: what changed takes effect now, or waits for the next start."""
        return dataclasses.asdict(reload())
