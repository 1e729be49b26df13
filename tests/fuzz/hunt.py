"""Hunt for packets that break a parser or a responder: `python tests/fuzz/hunt.py [SECONDS [SEED [TARGET ...]]]`.

So long for each target, of all or of those named, by each engine: hypothesis (packets of the right shape, slightly
wrong) and atheris (led by what is covered). A line for each says seconds, packets and result; what raised stays in the
corpus. Ends with 1 when something raised, with 2 when an engine is not there.
"""

import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from corpus import corpus, keep

DEFAULT_S = 600.0
ENGINES = ("hypothesis", "atheris")
_STARTED_WITHIN_S = 120
_EXECUTED = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one engine at one target."""

    packets: int
    raised: str
    """What, and the file of the corpus that shows it; empty: nothing."""


def by_hypothesis(name: str, seconds: float, seed: int) -> Outcome:
    from shaped import hunt
    from targets import targets

    hunted = hunt(name, lambda: targets()[name], seconds, seed)
    if hunted.error is None:
        return Outcome(hunted.packets, "")
    told = "".join(traceback.format_exception(hunted.error))
    return Outcome(hunted.packets, f"{told}{keep(name, hunted.raising)}")


def by_atheris(name: str, seconds: float, seed: int) -> Outcome:
    """In a process of its own, which ends with what it finds."""
    with tempfile.TemporaryDirectory() as scratch:
        begin = Path(scratch) / "corpus"
        begin.mkdir()
        for number, packet in enumerate(corpus(name)):
            (begin / str(number)).write_bytes(packet)
        led = Path(__file__).with_name("led.py")
        command = [sys.executable, led, name, str(max(1, round(seconds))), str(seed or 1), begin]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds + _STARTED_WITHIN_S, check=False
        )
        told = done.stdout + done.stderr
        executed = _EXECUTED.search(told)
        packets = int(executed[1]) if executed else 0
        if done.returncode == 0 and packets:
            return Outcome(packets, "")
        kept = [str(keep(name, [path.read_bytes()])) for path in Path(scratch).glob("raised-*")]
        return Outcome(packets, "\n".join([told[-4000:], f"ended with {done.returncode}", *kept]))


def main(arguments: list[str]) -> int:
    from targets import targets

    seconds = float(arguments[0]) if arguments else DEFAULT_S
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(1 << 32)
    if missing := [engine for engine in ENGINES if importlib.util.find_spec(engine) is None]:
        print(f"{', '.join(missing)} not installed: `tests/run fuzz` installs it", file=sys.stderr)
        return 2
    names = arguments[2:] or list(targets())
    if unknown := [name for name in names if name not in targets()]:
        print(f"no target {', '.join(unknown)}: there are {', '.join(targets())}", file=sys.stderr)
        return 2
    failed = False
    for name in names:
        for engine, hunt in zip(ENGINES, (by_hypothesis, by_atheris), strict=True):
            begin = time.monotonic()
            outcome = hunt(name, seconds, seed)
            took = time.monotonic() - begin
            result = "RAISED" if outcome.raised else "nothing raised"
            print(
                f"{name:13} {engine:10} {took:5.0f} s  seed {seed}  {outcome.packets:>10,} packets  {result}",
                flush=True,
            )
            if outcome.raised:
                print(outcome.raised, file=sys.stderr)
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
