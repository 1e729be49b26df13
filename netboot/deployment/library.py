"""The appliance's own image work: capture, import, verify. Long reads and writes, each on a thread of its own kind."""

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from imager.errors import UnknownImage
from imager.image.capture import capture_image
from imager.image.manifest import Manifest
from imager.image.store import ImageStore
from imager.image.verify import verify_image
from netboot.deployment.describe import describe_manifest
from netboot.deployment.live import Changes
from netboot.errors import UnknownError

WORKERS = 2
"""More captures or checks wait their turn."""

Result = TypeVar("Result")


class Library:
    """Works on the image store. `close()` waits for what is under way."""

    def __init__(self, store: ImageStore, changes: Changes) -> None:
        self._store = store
        self._changes = changes
        self._threads = ThreadPoolExecutor(WORKERS, "library")

    async def describe(self, name: str, version: int | None) -> dict[str, Any]:
        """One version with its layout."""
        return describe_manifest(await self._run(lambda: self._store.manifest(name, version)))

    async def capture(self, source: Path, name: str) -> dict[str, Any]:
        manifest = await self._run(lambda: capture_image(self._store, source, name))
        self._changes.tell()
        return describe_manifest(manifest)

    async def import_wim(self, file: Path, name: str) -> dict[str, Any]:
        def work() -> Manifest:
            from imager.files.wim import import_wim  # with an XML parser: memory that only this needs

            return import_wim(file, self._store, name)

        manifest = await self._run(work)
        self._changes.tell()
        return describe_manifest(manifest)

    async def verify(self, name: str, version: int | None) -> dict[str, Any]:
        report = await self._run(lambda: verify_image(self._store, name, version))
        return {**dataclasses.asdict(report), "ok": report.ok}

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, function: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function)
        except UnknownImage as error:
            raise UnknownError(str(error)) from error
