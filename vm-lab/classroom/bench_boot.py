"""`vm-lab/bench boot`: the boot services beside their peers, in one run; one line a figure."""

import sys

from classroom.bench import Bench, run_benches
from classroom.bench_dhcp import bench_avalanche, bench_known, bench_rate
from classroom.bench_http import bench_http
from classroom.bench_memory import bench_memory
from classroom.bench_newcomers import bench_newcomers
from classroom.bench_tftp import bench_bad_line, bench_tftp

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
    return run_benches("vm-lab/bench boot", __doc__ or "", BENCHES)


if __name__ == "__main__":
    sys.exit(main())
