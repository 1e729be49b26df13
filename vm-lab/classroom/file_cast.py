"""One file cast by our own programs, step by step: who starts when, and what each says as it goes."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from classroom.cast_peers import ROOMCAST, check_outputs
from classroom.cast_room import INTERFACE, CastRoom
from classroom.errors import LabError
from classroom.run import Run
from classroom.timed_process import TimedProcess

_POLL_S = 0.02


class FileCast:
    """A context manager: at its end no program runs, and what was received is gone."""

    def __init__(self, lab: Run, room: CastRoom, source: Path) -> None:
        self._room = room
        self._source = source
        self._tag = f"cast-{time.monotonic_ns()}"
        self._logs = lab.logs
        self._stack = ExitStack()
        self._outputs: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        for output in self._outputs:
            output.unlink(missing_ok=True)

    def receive(self, number: int, *options: str) -> TimedProcess:
        output = self._source.parent / f"{self._tag}-{number}" / self._source.name
        output.parent.mkdir()
        self._outputs.append(output)
        return self._start(self._room.receivers[number - 1], "receive", "--output", str(output), *options)

    def send(self, *options: str) -> TimedProcess:
        return self._start(self._room.sender, "send", str(self._source), *options)

    def _start(self, namespace: str, *words: str) -> TimedProcess:
        log = self._logs / f"{self._tag}-{namespace}.log"
        return TimedProcess(namespace, [str(ROOMCAST), *words, "-i", INTERFACE, "--json"], log, self._stack)

    def check(self) -> None:
        """Raises LabError when a receiver has not the file."""
        check_outputs(self._source, self._outputs)


def events(process: TimedProcess, name: str) -> list[dict[str, Any]]:
    """What it has told under that name so far."""
    whole, _, _ = process.log.read_text().rpartition("\n")
    told = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [event for event in told if event["event"] == name]


def until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Raises LabError when it does not come about."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {within_s:.0f} s")
        time.sleep(_POLL_S)
