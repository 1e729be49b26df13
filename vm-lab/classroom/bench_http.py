"""Boot files by HTTP measured by curl: `roomcast serve` beside busybox's httpd, which forks and calls sendfile."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from classroom.bench_dhcp import SERVER, Served, serving
from classroom.errors import LabError
from classroom.figures import Figure
from classroom.processes import BackgroundProcess
from classroom.run import Run, inside

FILE_BYTES = 256 << 20
PEER_PORT = 8080
ONE_OF_PEER, MANY_OF_PEER = 0.6, 0.9
"""A process a connection and nothing but sendfile is the fastest there is; on a wire of 10 Gbit/s both are idle."""
MANY = 8
MOST_RSS_MB = 150.0
START_S = 10.0


def bench_http(lab: Run) -> Iterator[Figure]:
    """One client, and some at once; each fetches the same file, as a room does."""
    with serving(lab, "roomcast") as served:
        agent = served.directory / "data" / "agent"
        agent.mkdir(exist_ok=True)
        with (agent / "initrd.img").open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(bytes(1 << 20))
        command = ["busybox", "httpd", "-f", "-p", f"{SERVER}:{PEER_PORT}", "-h", str(served.directory / "data")]
        peer = BackgroundProcess("httpd", command, log=lab.logs / "httpd.log", namespace=served.server)
        peer.start()
        try:
            _wait_for(served, PEER_PORT, lab.logs)
            ours, theirs = f"http://{SERVER}/boot/agent/initrd.img", f"http://{SERVER}:{PEER_PORT}/agent/initrd.img"
            for clients, share in ((1, ONE_OF_PEER), (MANY, MANY_OF_PEER)):
                goal = _mb_s(served, theirs, clients)
                name = "http one client" if clients == 1 else f"http {clients} clients at once"
                words = f"httpd {goal:,.0f} MB/s"
                yield Figure(name, _mb_s(served, ours, clients), " MB/s", share * goal, True, words)
            yield Figure("http memory (RSS)", served.most_rss_bytes / 1e6, " MB", MOST_RSS_MB, False)
        finally:
            peer.stop()


def _wait_for(served: Served, port: int, logs: Path) -> None:
    deadline = time.monotonic() + START_S
    command = [*inside(served.client), "curl", "-s", "-o", "/dev/null", f"http://{SERVER}:{port}/"]
    while subprocess.run(command, check=False).returncode:
        if time.monotonic() > deadline:
            raise LabError(f"httpd did not start: see {logs}/httpd.log")
        time.sleep(0.1)


def _mb_s(served: Served, url: str, clients: int) -> float:
    command = [*inside(served.client), "curl", "-sSf", "-o", "/dev/null", url]
    began = time.monotonic()
    running = [subprocess.Popen(command) for _ in range(clients)]
    if any([process.wait() for process in running]):
        raise LabError(f"a fetch of {url} failed")
    return clients * FILE_BYTES / 1e6 / (time.monotonic() - began)
