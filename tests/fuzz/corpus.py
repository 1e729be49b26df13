"""Packets that hunts begin with, and those that they found: tests/data/fuzz/TARGET/*.hex, a packet a line.

Every test run replays them (tests/unit/test_fuzz_corpus.py).
"""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
MAX_PACKET_BYTES = 1500


def corpus(target: str) -> list[bytes]:
    """Every packet, in the order of the files' names."""
    files = sorted((CORPUS / target).glob("*.hex"))
    return [bytes.fromhex(line) for path in files for line in path.read_text().splitlines()]


def keep(target: str, packets: Sequence[bytes]) -> Path:
    """Put packets that together made the target raise into the corpus."""
    lines = "".join(packet.hex() + "\n" for packet in packets)
    path = CORPUS / target / f"found-{hashlib.sha256(lines.encode()).hexdigest()[:12]}.hex"
    path.write_text(lines)
    return path


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
    return bytes(data[:MAX_PACKET_BYTES])
