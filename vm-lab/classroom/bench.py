"""What every `vm-lab/bench` command does: run its benches some times, print one line a figure, say which are short.

Two cores of a busy machine give no absolute times: goals are ratios where they can be, and every bench is repeated.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from classroom.errors import LabError
from classroom.figures import Failure, Figure, Line, lines_of
from classroom.run import Run
from imager.errors import ToolError

Bench = Callable[[Run], Iterator[Figure | Failure]]
"""Measures once: ours and the peers', one after the other. Each figure's name is the same in every run."""


class Details(Protocol):
    """What a command measured beside its lines."""

    def text(self) -> str:
        """For people, printed under the lines; empty when nothing was measured."""

    def as_json(self) -> dict[str, Any]:
        """For programs, beside the lines."""

    def draw(self, path: Path) -> None:
        """A picture (SVG). Raises LabError when it cannot be drawn."""


def run_benches(prog: str, description: str, benches: Mapping[str, Bench], details: Details | None = None) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is not reached")
    parser.add_argument("--only", choices=sorted(benches), action="append", help="this one alone; may be repeated")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="how often each is measured (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    if details is not None:
        parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, as SVG")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(f"bench: load is {load:.1f} on {cores} cores: other work takes its part of every figure", file=sys.stderr)
    lines: list[Line] = []
    try:
        with Run() as lab:
            for name, bench in benches.items():
                if options.only and name not in options.only:
                    continue
                for line in lines_of(_measured(name, bench, lab, options.runs)):
                    lines.append(line)
                    print(line, flush=True)
        if details is not None and (text := details.text()):
            print(text)
        if options.json:
            options.json.write_text(json.dumps(_as_json(lines, details), indent=1) + "\n")
        if details is not None and options.plot:
            details.draw(options.plot)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if options.check and not all(line.is_reached for line in lines) else 0


def _measured(name: str, bench: Bench, lab: Run, runs: int) -> Iterator[Figure | Failure]:
    """Of all runs; a run that comes to grief does not keep the others, nor the other benches, from being measured."""
    for number in range(1, runs + 1):
        print(f"bench: {name}, {number} of {runs}", file=sys.stderr)
        try:
            yield from bench(lab)
        except (LabError, ToolError) as error:
            yield failure(name, error)


def failure(name: str, error: LabError | ToolError) -> Failure:
    """What is measured in place of a figure; the log's last lines are told at once."""
    print(f"bench: {name}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
    return Failure(name, str(error).partition("\n")[0])


def _as_json(lines: list[Line], details: Details | None) -> dict[str, Any]:
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    return {"machine": machine, "lines": [asdict(line) for line in lines], **(details.as_json() if details else {})}
