"""DHCP servers measured by perfdhcp, each in a namespace of its own: `roomcast serve` and dnsmasq.

perfdhcp acts as a relay agent, as a router does. An exchange that is not whole within a second counts as unanswered.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from classroom.errors import LabError
from classroom.figures import Figure
from classroom.run import NETNS, Run
from imager.programs import run as run_program

RATE = 1_000
"""Exchanges a second that we must keep up with."""
PEER_RATE = 1_000
"""Asked of dnsmasq: more than it does."""
TIMES_PEER = 2
MOST_UNANSWERED_PERCENT = 0.1
LONGEST_AVERAGE_MS = 20.0
FIRST_OFFER_MS = 50.0
MOST_RSS_MB = 150.0

NETWORK_BITS = 16
SERVER, CLIENT = "10.80.0.1", "10.80.0.2"
POOL = ("10.80.1.0", "10.80.249.255")
START_S = 60.0
SETTLE_S = 1.0
"""From the start of a server to the first question: not what is measured here."""
STEP_S = 6
ROOM = 500
"""Machines that are switched on at once."""
PXE_OPTIONS = (
    ("60", b"PXEClient:Arch:00007:UNDI:003016"),
    ("93", b"\0\7"),
    ("97", b"\0" + bytes(range(16))),
)
"""What UEFI firmware says of itself (RFC 4578)."""
ROOMCAST = Path(sys.executable).parent / "roomcast"


@dataclass(frozen=True, slots=True)
class Rate:
    """One run of perfdhcp at a steady rate."""

    exchanges_per_s: float
    """Whole ones: DISCOVER, OFFER, REQUEST, ACK."""
    unanswered_percent: float
    """Of the packets sent."""
    average_ms: float
    """Of the slower of the two halves."""


@dataclass(frozen=True, slots=True)
class Avalanche:
    """A room that starts at once."""

    seconds: float
    """Until every machine holds its lease; a machine that hears nothing asks again."""
    first_offer_ms: float


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and the client's place."""

    process: subprocess.Popen[bytes]
    client: str
    """Name of its namespace."""
    server: str
    """Name of the server's."""
    directory: Path
    """The server's files."""

    @property
    def rss_bytes(self) -> int:
        """Of the server's process; 0 when it has ended."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(match[1]) * 1024 if match else 0


def dnsmasq_command(directory: Path) -> list[str]:
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=e0"),
        *("--no-ping", f"--dhcp-range={POOL[0]},{POOL[1]},1h", "--dhcp-lease-max=70000", "--dhcp-authoritative"),
        *(f"--dhcp-leasefile={directory}/leases", f"--pid-file={directory}/pid"),
    ]


def roomcast_command() -> list[str]:
    return [str(ROOMCAST), "serve", "--interface", "e0", "--pool", f"{POOL[0]}-{POOL[1]}", "--page", "off"]


@contextlib.contextmanager
def serving(lab: Run, name: str) -> Iterator[Served]:
    """`name` is "roomcast" or "dnsmasq"; a fresh one, without leases."""
    tag = f"{name}-{time.monotonic_ns() % 1_000_000}"
    directory = lab.directory / tag
    directory.mkdir()
    server, client = lab.namespace(f"{tag}-s"), lab.namespace(f"{tag}-c")
    for namespace in (server, client):
        run_program(["ip", "netns", "add", namespace])
    cable = f"ip link add e0 netns {server} type veth peer name e0 netns {client}"
    run_program(cable.split())
    for namespace, address in ((server, SERVER), (client, CLIENT)):
        run_program([*inside(namespace), "ip", "address", "add", f"{address}/{NETWORK_BITS}", "dev", "e0"])
        run_program([*inside(namespace), "ip", "link", "set", "e0", "up"])
        run_program([*inside(namespace), "ip", "link", "set", "lo", "up"])
        run_program([*inside(namespace), "ethtool", "-K", "e0", "tx", "off"])
    environment = {
        **os.environ,
        "ROOMCAST_DATA": str(directory / "data"),
        "ROOMCAST_SOCKET": str(directory / "api.sock"),
    }
    command = roomcast_command() if name == "roomcast" else dnsmasq_command(directory)
    log = lab.logs / f"{tag}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*inside(server), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        _wait_for_port(process, server, log)
        time.sleep(SETTLE_S)
        yield Served(process, client, server, directory)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def inside(namespace: str) -> list[str]:
    return ["nsenter", f"--net={NETNS / namespace}", "--"]


def _wait_for_port(process: subprocess.Popen[bytes], namespace: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while ":67 " not in run_program([*inside(namespace), "ss", "-Hlun"]):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"a DHCP server did not start: see {log}")
        time.sleep(0.1)


def bench_rate(lab: Run) -> Iterator[Figure]:
    """A steady rate, relayed."""
    with serving(lab, "dnsmasq") as peer:
        theirs = measure_rate(peer, PEER_RATE, last_s=0).exchanges_per_s
    wanted = max(RATE, TIMES_PEER * theirs)
    with serving(lab, "roomcast") as served:
        ours = measure_rate(served, round(wanted * 1.02), last_s=1)
        rss_mb = served.rss_bytes / 1e6
    yield Figure(
        "dhcp exchanges a second, durable", ours.exchanges_per_s, "/s", wanted, True, f"dnsmasq {theirs:,.0f}/s"
    )
    yield Figure("dhcp unanswered in 1 s", ours.unanswered_percent, " %", MOST_UNANSWERED_PERCENT, False, digits=3)
    yield Figure("dhcp average answer", ours.average_ms, " ms", LONGEST_AVERAGE_MS, False, digits=1)
    yield Figure("dhcp memory (RSS)", rss_mb, " MB", MOST_RSS_MB, False)


def bench_avalanche(lab: Run) -> Iterator[Figure]:
    """A room that is switched on at once."""
    with serving(lab, "dnsmasq") as peer:
        theirs = measure_avalanche(peer)
    with serving(lab, "roomcast") as served:
        ours = measure_avalanche(served)
    yield Figure(f"dhcp, {ROOM} at once, all leased", ours.seconds, " s", theirs.seconds, False, "dnsmasq", 2)
    yield Figure(f"dhcp, {ROOM} at once, first offer", ours.first_offer_ms, " ms", FIRST_OFFER_MS, False, digits=1)


def measure_rate(served: Served, per_s: int, *, last_s: int) -> Rate:
    """Ask `per_s` times a second for STEP_S seconds, each time as one of 60,000 clients.

    `last_s`: the wait for what was asked last, which would count as unanswered otherwise. Give none to a server that
    is asked for more than it can: it would work that much longer.
    """
    words = f"perfdhcp -4 -l {CLIENT} -R 60000 -r {per_s} -p {STEP_S} -W {last_s * 1_000_000} {SERVER}".split()
    text = _perfdhcp(served, words)
    # perfdhcp counts the wait as time in which it asks.
    exchanges = float(_number(r"Rate: ([\d.]+) 4-way exchanges/second", text)) * (STEP_S + last_s) / STEP_S
    sent = sum(int(n) for n in re.findall(r"sent packets: (\d+)", text))
    received = sum(int(n) for n in re.findall(r"received packets: (\d+)", text))
    delays = [float(n) for n in re.findall(r"avg delay: ([\d.]+) ms", text)]
    if not sent or not delays:
        raise LabError(f"perfdhcp got no answer: {text[-500:]}")
    return Rate(exchanges, 100 * max(0.0, 1 - received / sent), max(delays))


def measure_avalanche(served: Served) -> Avalanche:
    """ROOM machines at once, each as UEFI firmware asks."""
    words = f"perfdhcp -4 -l {CLIENT} --scenario avalanche -R {ROOM}".split()
    for code, value in PXE_OPTIONS:
        words += ["-o", f"{code},{value.hex()}"]
    text = _perfdhcp(served, [*words, SERVER])
    hours, minutes, seconds = _number(r"It took (\d+:\d+:[\d.]+) to provision", text).split(":")
    if int(_number(r"received packets: (\d+)(?![\s\S]*received packets)", text)) < ROOM:
        raise LabError(f"not every machine got its lease: {text[-500:]}")
    first_offer_ms = float(_number(r"DISCOVER-OFFER[\s\S]*?min delay: ([\d.]+) ms", text))
    return Avalanche(int(hours) * 3600 + int(minutes) * 60 + float(seconds), first_offer_ms)


def _perfdhcp(served: Served, words: list[str]) -> str:
    # It ends with 3 when some packets were not answered, which is a figure and no failure.
    done = subprocess.run([*inside(served.client), *words], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode not in (0, 3):
        raise LabError(f"`{' '.join(words)}` ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def _number(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise LabError(f"perfdhcp printed no `{pattern}`: {text[-500:]}")
    return match[1]
