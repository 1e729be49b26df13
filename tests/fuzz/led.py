"""One target under atheris, led by coverage: TARGET SECONDS SEED. Writes what raised beside the corpus, and ends."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["netboot"]):
    from targets import targets

from hunt import CORPUS, corpus


def main(name: str, seconds: str, seed: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for number, packet in enumerate(corpus(name)):
            (Path(directory) / str(number)).write_bytes(packet)
        limits = [
            f"-max_total_time={round(float(seconds))}",
            f"-seed={int(seed) or 1}",
            "-max_len=1500",
            "-print_final_stats=1",
        ]
        found = f"-artifact_prefix={CORPUS / name}/raw-"
        atheris.Setup([sys.argv[0], *limits, found, "-verbosity=0", directory], targets()[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
