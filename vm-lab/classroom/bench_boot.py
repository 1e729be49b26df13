"""`vm-lab/bench boot`: the boot services beside their peers, in one run; one line a figure.

Two cores of a busy machine give no absolute times: goals are ratios where they can be.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from classroom.bench_dhcp import ROOM, measure_avalanche, measure_rate, serving
from classroom.errors import LabError
from classroom.run import Run

DHCP_RATE = 1_000
"""Exchanges a second that we must keep up with."""
PEER_RATE = 1_000
"""Asked of dnsmasq: more than it does."""
MOST_UNANSWERED = 0.001
LONGEST_AVERAGE_MS = 20.0
FIRST_OFFER_MS = 50.0
MOST_RSS_BYTES = 150e6


@dataclass(frozen=True, slots=True)
class Figure:
    """One line."""

    name: str
    value: str
    goal: str
    is_reached: bool


def bench_dhcp(lab: Run) -> Iterator[Figure]:
    """A steady rate, relayed."""
    with serving(lab, "dnsmasq") as peer:
        theirs = measure_rate(peer, PEER_RATE).exchanges_per_s
    wanted = max(DHCP_RATE, round(2 * theirs))
    with serving(lab, "roomcast") as ours:
        steady = measure_rate(ours, round(wanted * 1.02))
        rss = ours.rss_bytes
    yield Figure(
        "dhcp exchanges a second",
        f"{steady.exchanges_per_s:,.0f} (dnsmasq {theirs:,.0f})",
        f"at least {wanted:,}",
        steady.exchanges_per_s >= wanted,
    )
    yield Figure(
        "dhcp unanswered within 1 s",
        f"{steady.unanswered:.3%}",
        f"at most {MOST_UNANSWERED:.1%}",
        steady.unanswered <= MOST_UNANSWERED,
    )
    yield Figure(
        "dhcp average answer",
        f"{steady.average_ms:.1f} ms",
        f"at most {LONGEST_AVERAGE_MS:.0f} ms",
        steady.average_ms <= LONGEST_AVERAGE_MS,
    )
    yield Figure(
        "dhcp memory (RSS)", f"{rss / 1e6:.0f} MB", f"under {MOST_RSS_BYTES / 1e6:.0f} MB", 0 < rss < MOST_RSS_BYTES
    )


def bench_avalanche(lab: Run) -> Iterator[Figure]:
    """A room that is switched on at once."""
    with serving(lab, "dnsmasq") as peer:
        theirs = measure_avalanche(peer)
    with serving(lab, "roomcast") as served:
        ours = measure_avalanche(served)
    yield Figure(
        f"{ROOM} machines at once, all leased",
        f"{ours.seconds:.2f} s",
        f"at most dnsmasq's {theirs.seconds:.2f} s",
        ours.seconds <= theirs.seconds,
    )
    yield Figure(
        f"{ROOM} machines at once, first offer",
        f"{ours.first_offer_ms:.1f} ms",
        f"under {FIRST_OFFER_MS:.0f} ms",
        ours.first_offer_ms < FIRST_OFFER_MS,
    )


BENCHES: dict[str, Callable[[Run], Iterator[Figure]]] = {"dhcp": bench_dhcp, "avalanche": bench_avalanche}


def main() -> int:
    parser = argparse.ArgumentParser(prog="vm-lab/bench boot", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is not reached")
    parser.add_argument("--only", choices=sorted(BENCHES), action="append", help="this one alone; may be repeated")
    options = parser.parse_args()
    short = 0
    try:
        with Run() as lab:
            for name, bench in BENCHES.items():
                if options.only and name not in options.only:
                    continue
                for figure in bench(lab):
                    short += not figure.is_reached
                    verdict = "ok" if figure.is_reached else "short"
                    print(f"{figure.name:<36} {figure.value:<28} {figure.goal:<32} {verdict}", flush=True)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 1 if options.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
