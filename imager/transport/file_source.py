"""A file as the chunks of a cast."""

import os
from pathlib import Path

from imager.errors import SourceError
from imager.transport.catalogue import stored_lengths


class FileChunks:
    """A ChunkSource over a file, cut every `chunk_bytes`. It travels to another process and opens the file there."""

    def __init__(self, path: Path, file_bytes: int, chunk_bytes: int) -> None:
        self._path = path.resolve()
        self._chunk_bytes = chunk_bytes
        self._descriptor = -1
        self.stored_lengths = stored_lengths(file_bytes, chunk_bytes)

    def __getstate__(self) -> tuple[Path, int, list[int]]:
        return self._path, self._chunk_bytes, self.stored_lengths

    def __setstate__(self, state: tuple[Path, int, list[int]]) -> None:
        self._path, self._chunk_bytes, self.stored_lengths = state
        self._descriptor = -1

    def read(self, index: int) -> bytes:
        """One chunk. Raises SourceError when the file has become shorter, OSError when it cannot be read."""
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        length = self.stored_lengths[index]
        data = os.pread(self._descriptor, length, index * self._chunk_bytes)
        if len(data) != length:
            raise SourceError(f"{self._path} changed while it was sent; send it again when nobody writes to it")
        return data
