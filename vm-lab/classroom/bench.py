"""What every `vm-lab/bench` command does: run its benches some times, print one line a figure, say which are short.

Two cores of a busy machine give no absolute times: goals are ratios where they can be, and every bench is repeated.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping

from classroom.errors import LabError
from classroom.figures import Figure, lines_of
from classroom.run import Run

Bench = Callable[[Run], Iterator[Figure]]
"""Measures once: ours and the peers', one after the other. Each figure's name is the same in every run."""


def run_benches(prog: str, description: str, benches: Mapping[str, Bench]) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is not reached")
    parser.add_argument("--only", choices=sorted(benches), action="append", help="this one alone; may be repeated")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="how often each is measured (default: 3)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(f"bench: load is {load:.1f} on {cores} cores: other work takes its part of every figure", file=sys.stderr)
    short = 0
    try:
        with Run() as lab:
            for name, bench in benches.items():
                if options.only and name not in options.only:
                    continue
                for line in lines_of(figure for _ in range(options.runs) for figure in bench(lab)):
                    short += not line.is_reached
                    print(line, flush=True)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if options.check and short else 0
