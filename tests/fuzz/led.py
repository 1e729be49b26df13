"""One target under atheris, led by what is covered: TARGET SECONDS SEED DIRECTORY, which holds packets to begin with.

Ends with the first packet that raises, which it leaves in DIRECTORY's parent.
"""

import sys

import atheris

with atheris.instrument_imports(include=["netboot", "imager"]):
    from targets import targets

from corpus import MAX_PACKET_BYTES


def main(name: str, seconds: str, seed: str, directory: str) -> None:
    limits = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={MAX_PACKET_BYTES}",
        "-print_final_stats=1",
        "-timeout=30",
    ]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={directory}/../raised-", directory], targets()[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
