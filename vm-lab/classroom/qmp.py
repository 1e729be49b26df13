"""QEMU's control socket (QMP): one JSON object a line, commands answered in order, events in between."""

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from classroom.errors import LabError

TIMEOUT_S = 20.0


class QmpClient:
    """A connection to one QEMU; a context manager. Not for use by several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        try:
            self._socket.connect(str(self._path))
            self._lines.readline()  # the greeting
            self.execute("qmp_capabilities")
        except OSError as error:
            self.close()
            raise LabError(f"QEMU does not answer on {self._path}: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command and return its answer. Raises LabError when QEMU refuses, OSError when it is gone."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while line := self._lines.readline():
            message = json.loads(line)
            if "error" in message:
                raise LabError(f"QEMU refuses {command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
        raise ConnectionResetError(f"QEMU closed {self._path}")
