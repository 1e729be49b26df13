"""Where a received file goes, in whatever order its chunks come: a file, or a stream that takes it in order."""

import contextlib
import fcntl
import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import Protocol

from imager.errors import TargetError

_UNFLUSHED_BYTES = 32 << 20
"""Written and not yet on the disk, for each thread that writes."""
_COPY_BYTES = 1 << 20
_BLOCK_BYTES = 512
"""stat(2): st_blocks."""


class Sink(Protocol):
    """Takes a file. What was not published when its context ends leaves nothing behind."""

    def left(self, at: int, length: int) -> bytes:
        """What an earlier try left there, which may be anything; empty: nothing."""

    def write(self, data: memoryview | bytes, at: int) -> None:
        """Verified bytes, by several threads. Raises TargetError."""

    def publish(self) -> None:
        """Everything was written, and now is held whatever comes. Raises TargetError."""

    def drain(self) -> None:
        """Wait for who takes it from here. Raises TargetError."""


class PartFile:
    """A file under another name, until it is whole. As a context it leaves nothing else behind.

    What a program that was killed left is taken over, by one program at a time; nobody else's file is. Written by
    several threads. What the kernel has not yet written to the disk is bounded: whoever comes across the bound waits
    for the disk, so that a slow one shows as what it is, and publish() has little left to flush.
    """

    def __init__(self, output: Path, file_bytes: int) -> None:
        self._output = output
        self._path = output.with_name(f".{output.name}.part")
        self._file_bytes = file_bytes
        self._descriptor = -1
        self._is_new = True
        self._unflushed = 0

    def __enter__(self) -> "PartFile":
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                self._check_own(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            there = os.fstat(descriptor).st_blocks * _BLOCK_BYTES
            self._is_new = not there
            _check_space(self._output.parent, self._file_bytes - there)
            os.ftruncate(descriptor, self._file_bytes)
        except OSError as error:
            self._remove()
            raise TargetError(f"cannot write {self._output}: {error.strerror}") from error
        except TargetError:
            self._remove()
            raise
        return self

    def _check_own(self, descriptor: int) -> None:
        """Whether this program may use the file that has the name, and is the only one. Raises TargetError."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found, named = os.fstat(descriptor), self._path.stat(follow_symlinks=False)
        except (BlockingIOError, FileNotFoundError) as error:
            raise TargetError(f"another program receives {self._output} at this moment") from error
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise TargetError(f"{self._path} is not what this program left there: remove it")
        if found.st_ino != named.st_ino:
            raise TargetError(f"another program receives {self._output} at this moment")

    def left(self, at: int, length: int) -> bytes:
        if self._is_new:
            return b""
        try:
            if os.lseek(self._descriptor, at, os.SEEK_DATA) >= at + length:
                return b""
            return os.pread(self._descriptor, length, at)
        except OSError:  # no data from there to the end, or no longer readable: it comes again
            return b""

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(FileNotFoundError):  # it was published
                self._path.unlink()

    def write(self, data: memoryview | bytes, at: int) -> None:
        try:
            self._unflushed += len(data)  # two threads at once may lose a chunk here: the bound stays one
            _write_all(self._descriptor, data, at)
            if self._unflushed >= _UNFLUSHED_BYTES:
                self._unflushed = 0
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise TargetError(f"cannot write {self._output}: {error.strerror}") from error

    def publish(self) -> None:
        """Give the file its name, once it is on the disk."""
        try:
            os.fsync(self._descriptor)
            os.link(self._path, self._output)  # unlike rename, does not replace a file that came up meanwhile
        except FileExistsError as error:
            raise TargetError(f"{self._output} has come up meanwhile and is left alone; choose another name") from error
        except OSError as error:
            raise TargetError(f"cannot write {self._output}: {error.strerror}") from error

    def drain(self) -> None:
        """Nobody takes it from here."""


class StreamSink:
    """A stream, mostly a pipe, that gets the file in order, as far as all before was verified.

    What is ahead of its turn, and what the reader has not taken yet, lies in a temporary file without a name: on a
    disk, not in memory. A reader that is slow holds up nobody else.
    """

    def __init__(self, stream: int, file_bytes: int, chunk_bytes: int, spool: Path | None = None) -> None:
        """`stream`: a descriptor, which stays open. `spool`: a directory; None: the system's for temporary files."""
        self._stream = stream
        self._file_bytes = file_bytes
        self._chunk_bytes = chunk_bytes
        self._directory = spool or Path(tempfile.gettempdir())
        self._news = threading.Condition()
        self._ahead: set[int] = set()  # chunks behind the first that lacks
        self._ready = 0  # bytes that may be copied
        self._ended = False
        self._error: TargetError | None = None

    def __enter__(self) -> "StreamSink":
        try:
            _check_space(self._directory, self._file_bytes)
            self._file = tempfile.TemporaryFile(dir=self._directory)
        except OSError as error:
            raise TargetError(f"cannot write in {self._directory}: {error.strerror}; name another: --spool") from error
        self._thread = threading.Thread(target=self._copy, name="stream", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
        if self._ready < self._file_bytes:
            return  # it may be stuck in a reader that takes nothing: it ends with the program
        self._thread.join()
        self._file.close()

    def left(self, at: int, length: int) -> bytes:
        return b""

    def write(self, data: memoryview | bytes, at: int) -> None:
        try:
            _write_all(self._file.fileno(), data, at)
        except OSError as error:
            raise TargetError(f"cannot write in {self._directory}: {error.strerror}") from error
        with self._news:
            if self._error is not None:
                raise self._error
            self._ahead.add(at // self._chunk_bytes)
            while (index := self._ready // self._chunk_bytes) in self._ahead:
                self._ahead.remove(index)
                self._ready = min(self._ready + self._chunk_bytes, self._file_bytes)
            self._news.notify()

    def publish(self) -> None:
        """Nothing is left to do: it is all in the temporary file."""

    def drain(self) -> None:
        """Wait until the reader has taken everything."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _copy(self) -> None:
        at = 0
        while at < self._file_bytes:
            with self._news:
                self._news.wait_for(lambda: self._ready > at or self._ended)  # noqa: B023 (asked before `at` changes)
                ready = self._ready
                if ready == at:
                    return
            try:
                while at < ready:
                    data = os.pread(self._file.fileno(), min(_COPY_BYTES, ready - at), at)
                    view = memoryview(data)
                    while view:
                        view = view[os.write(self._stream, view) :]
                    at += len(data)
            except OSError as error:
                with self._news:
                    self._error = TargetError(f"who reads the file takes no more of it: {error.strerror}")
                return


def _check_space(directory: Path, needed: int) -> None:
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise TargetError(f"{directory} has {free} bytes free, {needed} are needed")


def _write_all(descriptor: int, data: memoryview | bytes, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written
