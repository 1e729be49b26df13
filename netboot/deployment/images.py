"""The image store as the event loop sees it: every call on a named thread, errors of a name as UserError."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from imager.errors import UnknownImage
from imager.image.manifest import Chunk, Manifest
from imager.image.store import ImageStore, StoredImage, Summary, places_of, read_first_sound
from netboot.errors import UnknownError

READING_THREADS = 2
MANIFESTS_KEPT = 4
"""In memory: a manifest may have a million chunks, and every machine of a session asks for the same one."""

Result = TypeVar("Result")


class Images:
    """Reads of the image store. `close()` when done."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self._manifests: dict[tuple[str, int], Manifest] = {}
        self._index: dict[bytes, int] = {}
        """The chunks of one version by their hash: machines that fetch theirs are mostly of one session."""
        self._indexed = ("", 0)
        self._threads = ThreadPoolExecutor(READING_THREADS, "images")

    async def all(self) -> list[Summary]:
        """A summary of each version of each image, by name and version."""
        return await self.run(self.store.images)

    async def manifest(self, name: str, version: int | None) -> Manifest:
        """Raises UnknownError when there is no such image or version."""
        if version is not None and (name, version) in self._manifests:
            return self._manifests[name, version]
        manifest = await self.run(self.store.manifest, name, version)
        while len(self._manifests) >= MANIFESTS_KEPT:
            del self._manifests[next(iter(self._manifests))]
        self._manifests[manifest.name, manifest.version] = manifest
        return manifest

    async def chunks(self, manifest: Manifest) -> StoredImage:
        """The stored chunks of a version, to be read in another process."""
        return await self.run(StoredImage, manifest, self.store)

    async def stored_chunk(self, name: str, version: int, chunk_hash: bytes) -> bytes:
        """The stored bytes of one chunk of a version, checked. Raises UnknownError when it has no such chunk."""
        manifest = await self.manifest(name, version)
        if self._indexed != (name, version):
            self._index = {chunk.hash: number for number, chunk in enumerate(manifest.chunks)}
            self._indexed = name, version
        number = self._index.get(chunk_hash)
        if number is None:
            raise UnknownError(f"{name} version {version} has no chunk {chunk_hash.hex()[:16]}")
        return await self.run(_read_stored, self.store, manifest.chunks[number])

    async def signed_manifest(self, name: str, version: int) -> bytes:
        return await self.run(self.store.signed_manifest, name, version)

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call `function` on a thread of the store. Raises UnknownError and StoreError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args))
        except UnknownImage as error:
            raise UnknownError(str(error)) from error

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def _read_stored(store: ImageStore, chunk: Chunk) -> bytes:
    return read_first_sound(places_of(store, chunk))
