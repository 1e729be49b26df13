"""`python -m imager.multicast.simulate`: casts over a modelled network, any number of seeds, and what they cost. Pure.

Without --only every seed draws a scenario of its own, and the invariants are checked; a seed that breaks one is shown,
and `--first SEED --seeds 1` runs exactly the same cast again. --crowd casts to hundreds or thousands of receivers.
"""

import argparse
import traceback
from collections import Counter
from collections.abc import Callable

from imager.multicast.crowd import Crowd
from imager.multicast.layout import CastLayout
from imager.multicast.scenarios import BLOCK, NAMED, random_scenario
from imager.multicast.simulation import Outcome, Scenario, broken_promises, simulate


def _troubles(scenario: Scenario) -> str:
    """The kind of a random scenario, for the table: the worst thing in it."""
    kinds = {
        "sender crash": scenario.sender_crash is not None,
        "crash": bool(scenario.crashes),
        "partition": scenario.partition is not None,
        "outages": bool(scenario.outage_every_s),
        "narrow": scenario.trunk is not None or bool(scenario.ports),
        "slow machine": bool(scenario.processors or scenario.disk_bps),
        "loss": bool(scenario.loss),
    }
    return next((kind for kind, there in kinds.items() if there), "no loss")


class Table:
    """Sums of what was seen, a line a kind of scenario."""

    def __init__(self) -> None:
        self._sums: dict[str, Counter[str]] = {}

    def add(self, kind: str, scenario: Scenario, outcome: Outcome) -> None:
        sums = self._sums.setdefault(kind, Counter())
        layout = CastLayout(scenario.stored_lengths)
        ended = max(outcome.finished_at.values(), default=outcome.ended_at)
        sums.update(runs=1, time=round(ended * 1e6), sent=outcome.sent_packets, payload=layout.symbol_count)
        sums.update(missed=outcome.missed_packets, unfinished=len(outcome.failed.keys() | outcome.lost.keys()))
        sums["longest"] = max(sums["longest"], round(ended * 1e6))

    def lines(self) -> list[str]:
        head = f"{'scenario':16}{'runs':>7}{'wire':>8}{'time s':>9}{'longest':>9}{'failed':>8}"
        return [head] + [
            f"{kind:16}{sums['runs']:7}{sums['sent'] / max(1, sums['payload']):8.3f}"
            f"{sums['time'] / sums['runs'] / 1e6:9.3f}{sums['longest'] / 1e6:9.3f}{sums['unfinished']:8}"
            for kind, sums in sorted(self._sums.items())
        ]


def run_seeds(
    seeds: range, draw: Callable[[int], Scenario], kind: str | None, table: Table, say: Callable[[str], None]
) -> list[int]:
    """Run them all; returns the seeds that broke a promise."""
    broken = []
    for seed in seeds:
        scenario = draw(seed)
        try:
            outcome = simulate(scenario)
            found = broken_promises(scenario, outcome)
        except Exception:  # whatever a core raises is the finding
            found = [traceback.format_exc()]
        else:
            table.add(kind or _troubles(scenario), scenario, outcome)
        if found:
            broken.append(seed)
            say(f"seed {seed}{f' of {kind}' if kind else ''}: {'; '.join(found)}")
    return broken


def run_crowd(seed: int, receivers: int, loss: float, megabytes: float) -> str:
    """One cast to so many, each of which loses that share: a line of what it cost."""
    layout = CastLayout((BLOCK,) * max(1, round(megabytes * 1e6 / BLOCK)))
    outcome = Crowd(seed, receivers, layout, loss).run()
    wire, said = outcome.sent_packets / layout.symbol_count, outcome.control_bytes / outcome.sent_bytes
    return (
        f"{receivers} receivers, {100 * loss:g} % loss, {megabytes:g} MB, seed {seed}: wire {wire:.3f}, "
        f"{outcome.finished_s:.3f} s, receivers say {100 * said:.2f} % of what is sent"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m imager.multicast.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (default 100)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them (default 0)")
    parser.add_argument("--only", choices=[*NAMED, "all"], help="a named scenario, or each of them")
    parser.add_argument("--crowd", type=int, metavar="N", help="one cast a seed to N receivers that only lose packets")
    parser.add_argument("--loss", type=float, default=1, metavar="PERCENT", help="of a crowd (default 1)")
    parser.add_argument("--megabytes", type=float, default=430, metavar="MB", help="to a crowd (default 430)")
    options = parser.parse_args()
    if options.crowd is not None and (options.crowd < 1 or options.only):
        parser.error("--crowd wants a number of receivers, at least 1, and no --only")
    if not 0 <= options.loss <= 90 or options.megabytes <= 0:
        parser.error("--loss is 0 to 90 percent, --megabytes more than 0")
    seeds = range(options.first, options.first + options.seeds)
    if options.crowd is not None:
        for seed in seeds:
            print(run_crowd(seed, options.crowd, options.loss / 100, options.megabytes), flush=True)
        return 0
    table = Table()
    names: list[str | None] = [*NAMED] if options.only == "all" else [options.only]
    broken = [
        seed
        for name in names
        for seed in run_seeds(seeds, NAMED[name] if name else random_scenario, name, table, print)
    ]
    for line in table.lines():
        print(line)
    print(f"{len(seeds) * len(names)} runs, {len(broken)} broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
