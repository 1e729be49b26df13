"""Fuzz the parsers and responders: `python tests/fuzz/hunt.py [SECONDS [SEED]]`, so many seconds for each target.

Packets of the corpus are mutated by a seeded generator; where atheris is installed, it hunts as long again, led by what
is covered. What raised is written to tests/data/fuzz/TARGET/ and stays in the corpus that every test run replays.
"""

import hashlib
import importlib.util
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
DEFAULT_S = 600.0
_LONGEST = 1500


def corpus(target: str) -> list[bytes]:
    """Packets to begin with, each a file of hexadecimal digits."""
    return [bytes.fromhex(path.read_text()) for path in sorted((CORPUS / target).glob("*.hex"))]


def mutate(chance: random.Random, packets: list[bytes]) -> bytes:
    """One packet, changed in a few places."""
    data = bytearray(chance.choice(packets))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                data[at : at + 1] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"\1"))
            case 4:
                other = chance.choice(packets)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                del data[at:]
    return bytes(data[:_LONGEST])


def hunt(name: str, target: Callable[[bytes], None], seconds: float, seed: int) -> tuple[int, int]:
    """How many packets were tried, and how many raised."""
    chance, packets = random.Random(f"{name} {seed}"), corpus(name)
    tried = found = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(chance, packets)
        tried += 1
        try:
            target(data)
        except Exception:
            found += 1
            path = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}.hex"
            path.write_text(data.hex() + "\n")
            print(f"{name}: seed {seed}, packet {tried}: {path}\n{traceback.format_exc()}", file=sys.stderr)
    return tried, found


def main(arguments: list[str]) -> int:
    from targets import targets

    seconds = float(arguments[0]) if arguments else DEFAULT_S
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(1 << 32)
    failed = 0
    for name, target in targets().items():
        tried, found = hunt(name, target, seconds, seed)
        print(f"{name}: seed {seed}, {tried} packets in {seconds:g} s, {found} raised", flush=True)
        failed += found
        if importlib.util.find_spec("atheris"):
            led = Path(__file__).with_name("led.py")
            code = subprocess.run([sys.executable, led, name, f"{seconds:g}", str(seed)], check=False).returncode
            print(f"{name}: atheris, {'nothing raised' if code == 0 else f'ended with {code}'}", flush=True)
            failed += code != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
