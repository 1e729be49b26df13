"""A file, or a stream of unknown length, as the chunks of a cast."""

import os
import tempfile
from pathlib import Path
from types import TracebackType

from imager.errors import SourceError
from imager.transport.catalogue import stored_lengths


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
        """One chunk. Raises SourceError when the file has become shorter, OSError when it cannot be read."""
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        if os.preadv(self._descriptor, [out], index * self._chunk_bytes) != len(out):
            raise SourceError(f"{self._path} changed while it was sent; send it again when nobody writes to it")


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
