"""`vm-lab/bench boot`: the boot services beside their peers, in one run; one line a figure.

Two cores of a busy machine give no absolute times: goals are ratios where they can be, and every bench is repeated.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator

from classroom.bench_dhcp import bench_avalanche, bench_known, bench_rate
from classroom.bench_http import bench_http
from classroom.bench_memory import bench_memory
from classroom.bench_newcomers import bench_newcomers
from classroom.bench_tftp import bench_bad_line, bench_tftp
from classroom.errors import LabError
from classroom.figures import Figure, lines_of
from classroom.run import Run

Bench = Callable[[Run], Iterator[Figure]]
"""Measures once: ours and the peers', one after the other. Each figure's name is the same in every run."""

BENCHES: dict[str, Bench] = {
    "dhcp": bench_rate,
    "known": bench_known,
    "avalanche": bench_avalanche,
    "newcomers": bench_newcomers,
    "memory": bench_memory,
    "http": bench_http,
    "tftp": bench_tftp,
    "tftp-bad-line": bench_bad_line,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="vm-lab/bench boot", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is not reached")
    parser.add_argument("--only", choices=sorted(BENCHES), action="append", help="this one alone; may be repeated")
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
            for name, bench in BENCHES.items():
                if options.only and name not in options.only:
                    continue
                for line in lines_of(figure for _ in range(options.runs) for figure in bench(lab)):
                    short += not line.is_reached
                    print(line, flush=True)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if options.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
