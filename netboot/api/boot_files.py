"""Answers with a boot file: all of it, a part of it, or its head alone.

A file goes from the page cache to the socket without passing through this process: see netboot/services/sendfile.py.
"""

import asyncio
import hashlib
import io
import os
import stat
import time
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from netboot.api.boot_tree import FetchLog
from netboot.api.ranges import NOT_MODIFIED, PART, WHOLE, Version, select
from netboot.bootlog.events import Span
from netboot.services.sendfile import FILE_MESSAGE, PeerStopped

BYTES = "application/octet-stream"
SLICE_BYTES = 1 << 20
"""Handed to the socket at a time: other connections get their turn between two."""


def no_such_file() -> Response:
    """One answer for everything that is not there: it tells a stranger nothing of this machine's files."""
    return JSONResponse({"detail": "no such boot file"}, 404)


def answer_with(content: bytes | Path, request: Request, path: str, fetches: FetchLog | None) -> Response:
    """The answer to this GET or HEAD; `path` is how the log names the file. Reads no more than the file's status."""
    if isinstance(content, bytes):
        tag = hashlib.blake2b(content, digest_size=16).hexdigest()
        return _BootFileAnswer(content, Version(len(content), f'"{tag}"'), request, path, fetches)
    try:
        file = io.FileIO(os.open(content, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError:  # it went away since the tree of files named it
        return no_such_file()
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        return no_such_file()
    tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'
    return _BootFileAnswer(file, Version(status.st_size, tag, int(status.st_mtime)), request, path, fetches)


class _BootFileAnswer(Response):
    """Owns the open file, and closes it."""

    def __init__(
        self, content: io.FileIO | bytes, version: Version, request: Request, path: str, fetches: FetchLog | None
    ) -> None:
        self._content = content
        self._fetches = fetches
        self._peer = request.client.host if request.client else ""
        self._path = path
        self._size = version.size
        self._selected = select(request.method, request.headers, version)
        self._sends = request.method == "GET" and self._selected.status in (WHOLE, PART)
        headers = self._selected.headers(version)
        if self._selected.status != NOT_MODIFIED:
            headers["Content-Length"] = str(self._selected.end - self._selected.start)
        super().__init__(None, self._selected.status, headers, BYTES)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._sends:
                await self._send_logged(send)
            await send({"type": "http.response.body"})
        except PeerStopped:
            pass  # told to the log; the connection is closed
        finally:
            if isinstance(self._content, io.FileIO):
                self._content.close()

    async def _send_logged(self, send: Any) -> None:
        start, end = self._selected.start, self._selected.end
        sent, began_s, why = 0, time.monotonic(), ""
        if self._fetches is not None:
            self._fetches.http_started(self._peer, self._path, self._size, Span(start, end))
        try:
            if isinstance(self._content, bytes):
                await send({"type": "http.response.body", "body": self._content[start:end], "more_body": True})
                sent = end - start
            else:
                while start + sent < end:
                    count = min(SLICE_BYTES, end - start - sent)
                    await send({"type": FILE_MESSAGE, "file": self._content, "offset": start + sent, "count": count})
                    sent += count
        except PeerStopped as error:
            why = str(error)
            raise
        except OSError as error:
            why = f"the file cannot be read: {error.strerror}"
            raise
        except asyncio.CancelledError:
            why = "the appliance was stopped"
            raise
        finally:
            if self._fetches is not None:
                seconds = time.monotonic() - began_s
                self._fetches.http_ended(self._peer, self._path, self._size, Span(start, end), sent, seconds, why)
