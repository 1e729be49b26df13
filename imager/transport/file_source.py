"""A file, or a stream of unknown length, as the chunks of a cast."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from blake3 import blake3

from imager.errors import SourceError
from imager.transport.catalogue import stored_lengths

_MOST_HASHING = 4
"""Threads: what they read together no disk gives faster."""


class FileChunks:
    """A ChunkSource over a file, cut every `chunk_bytes`. It travels to another process and opens the file there."""

    def __init__(self, path: Path, file_bytes: int, chunk_bytes: int) -> None:
        self._path = path.absolute()
        self._chunk_bytes = chunk_bytes
        self._descriptor = -1
        self.stored_lengths = stored_lengths(file_bytes, chunk_bytes)

    def __getstate__(self) -> tuple[Path, int, list[int]]:
        return self._path, self._chunk_bytes, self.stored_lengths

    def __setstate__(self, state: tuple[Path, int, list[int]]) -> None:
        self._path, self._chunk_bytes, self.stored_lengths = state
        self._descriptor = -1

    def read_into(self, index: int, out: memoryview) -> None:
        """One chunk. Raises SourceError when the file cannot be read, or has become shorter."""
        descriptor = self._opened()
        try:
            count = os.preadv(descriptor, [out], index * self._chunk_bytes)
        except OSError as error:
            raise SourceError(f"cannot read {self._path}: {error.strerror}") from error
        if count != len(out):
            raise SourceError(f"{self._path} changed while it was sent; send it again when nobody writes to it")

    def _opened(self) -> int:
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"cannot read {self._path}: {error.strerror}") from error
        return self._descriptor

    def hashes(self, on_begun: Callable[[int], None]) -> list[bytes]:
        """BLAKE3 of each chunk, by several processors; `on_begun` hears which byte is begun. Raises SourceError."""
        found = [b""] * len(self.stored_lengths)
        indices = iter(range(len(found)))

        def work(tell: Callable[[int], None]) -> None:
            buffer = memoryview(bytearray(self._chunk_bytes))
            for index in indices:  # whoever is free takes the next: the disk is read in order
                tell(index * self._chunk_bytes)
                chunk = buffer[: self.stored_lengths[index]]
                self.read_into(index, chunk)
                found[index] = blake3(chunk).digest()

        self._opened()  # once, not by each thread
        helpers = min(_MOST_HASHING, os.cpu_count() or 1, len(found)) - 1
        if helpers < 1:
            work(on_begun)
            return found
        with ThreadPoolExecutor(helpers) as pool:
            try:
                others = [pool.submit(work, lambda _: None) for _ in range(helpers)]
                work(on_begun)
            finally:
                for _ in indices:  # nobody goes on when one has failed
                    pass
            for other in others:
                other.result()
        return found


_READ_BYTES = 1 << 20


class Spool:
    """A stream that is kept in a temporary file without a name while it is cast: any part may be asked for again.

    As a context it lives as long as that; the file is gone with the program, however that ends.
    """

    def __init__(self, stream: int, directory: Path | None = None) -> None:
        """Reads the stream to its end. `directory`: None, the system's for temporary files. Raises SourceError."""
        where = directory or Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=where)  # noqa: SIM115 (open as long as this object)
        except OSError as error:
            raise SourceError(f"cannot write in {where}: {error.strerror}; name another: --spool DIR") from error
        try:
            while data := os.read(stream, _READ_BYTES):
                self._file.write(data)
            self._file.flush()
        except OSError as error:
            self._file.close()
            raise SourceError(
                f"what is to be sent could not be kept in {where}: {error.strerror}; name another: --spool DIR"
            ) from error

    def __enter__(self) -> Path:
        """A path to it, for every process of ours."""
        return Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
