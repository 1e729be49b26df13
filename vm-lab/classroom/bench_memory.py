"""The memory of `roomcast serve` as it runs by default, while all that boot services do is asked of it at once."""

import os
import random
import subprocess
from collections.abc import Iterator

from classroom.bench_dhcp import MOST_RSS_MB, RATE, SERVER, measure_rate, serving
from classroom.errors import LabError
from classroom.figures import Figure
from classroom.run import Run, inside
from imager.programs import run as run_program

CLIENTS = [f"10.80.0.{number}" for number in range(10, 110)]
"""Each fetches by TFTP, from an address of its own."""
FILE, FILE_BYTES = "agent/vmlinuz", 4 << 20
PAGES = ("", "machines", "images", "sessions", "boots")
PAGE_ADDRESS = "127.0.0.1:8670"
FOLLOWERS = 4
"""Pages that somebody has open."""


def bench_memory(lab: Run) -> Iterator[Figure]:
    """DHCP at the rate that must be kept up, which fills the boot log; a crowd's files by TFTP; pages opened."""
    with serving(lab, "roomcast", prepare=_crowd) as served:
        file = served.directory / "data" / FILE
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(random.Random(FILE).randbytes(FILE_BYTES))
        fetch = ["curl", "-sSf", "--tftp-blksize", "1468", "-o", os.devnull, f"tftp://{SERVER}/{FILE}"]
        page = [*inside(served.server), "curl", "-sSN", "-o", os.devnull]
        open_pages = [subprocess.Popen([*page, f"http://{PAGE_ADDRESS}/live/boots"]) for _ in range(FOLLOWERS)]
        fetching = [subprocess.Popen([*inside(served.client), *fetch, "--interface", client]) for client in CLIENTS]
        rate = measure_rate(served, RATE, last_s=1, as_firmware=True)
        for name in PAGES:
            run_program([*page, "--fail", f"http://{PAGE_ADDRESS}/{name}"])
        failed = sum(client.wait(120) != 0 for client in fetching)
        most_mb = served.most_rss_bytes / 1e6
        for each in open_pages:
            each.terminate()
            each.wait()
    if failed or not rate.exchanges_per_s:
        raise LabError(f"{failed} of {len(CLIENTS)} clients did not get their file while memory was measured")
    yield Figure("memory (RSS) while all is asked", most_mb, " MB", MOST_RSS_MB, False, each_run=True)


def _crowd(_: str, client: str) -> None:
    addresses = "".join(f"address add {each}/16 dev e0\n" for each in CLIENTS)
    run_program([*inside(client), "ip", "-batch", "-"], stdin=addresses.encode())
