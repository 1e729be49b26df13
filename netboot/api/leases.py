"""The leases in the administrators' API: read only."""

import dataclasses
from typing import Any

from fastapi import FastAPI

from netboot.deployment.leases import LeaseList


def add_leases(app: FastAPI, leases: LeaseList) -> None:
    """Their path."""

    @app.get("/api/v1/leases", tags=["leases"])
    async def all_leases() -> Any:
        """The record of every address that was ever given, by address."""
        return [dataclasses.asdict(lease) for lease in await leases.all()]
