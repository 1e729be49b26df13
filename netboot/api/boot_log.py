"""The boot log in the administrators' API: read only."""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse

from netboot.deployment.boot_log import BootHistory
from netboot.services.counters import PacketCounters

STREAM_INTERVAL_S = 0.5
STREAM_SILENCE_S = 5.0

Name = Annotated[str, PathParameter(min_length=1, max_length=63)]


def add_boot_log(app: FastAPI, history: BootHistory, counters: Callable[[], Mapping[str, PacketCounters]]) -> None:
    """Its paths."""

    @app.get("/api/v1/boot-log/ignored", tags=["boot log"])
    async def ignored() -> Any:
        """What got no answer, and why: by sender, the latest first, and as counted by each service since its start."""
        packets = [dataclasses.asdict(packet) for packet in history.recorder.ignored()]
        counted = [
            {"service": service, "reason": reason, "count": count}
            for service, counter in counters().items()
            for reason, count in counter.ignored_by_reason().items()
        ]
        return {"packets": packets, "counted": counted}

    @app.get("/api/v1/boot-log/machines/{name}", tags=["boot log"])
    async def boots(name: Name, count: Annotated[int, Query(ge=1, le=20)] = 1) -> Any:
        """The last boots of a machine, by its name, a MAC or its address; the oldest first."""
        return await history.boots(await history.macs(name), count)

    @app.get("/api/v1/boot-log/machines/{name}/events", tags=["boot log"])
    async def events(name: Name) -> StreamingResponse:
        """Server-sent events: the machine's last boot, whenever something of it changed."""
        macs, changes = await history.macs(name), history.recorder.changes

        async def stream() -> AsyncIterator[str]:
            seen = -1
            while not changes.stopping:
                yield f"data: {json.dumps(await history.boots(macs))}\n\n"
                seen = await changes.next(seen, STREAM_INTERVAL_S, STREAM_SILENCE_S)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})
