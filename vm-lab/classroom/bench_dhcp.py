"""DHCP servers measured by perfdhcp, each in a namespace of its own: `roomcast serve` and dnsmasq.

perfdhcp acts as a relay agent, as a router does. An exchange that is not whole within a second counts as unanswered.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from classroom.errors import LabError
from classroom.figures import Figure
from classroom.processes import most_memory_bytes
from classroom.run import Run, inside
from imager.programs import run as run_program

RATE = 1_000
"""Exchanges a second that we must keep up with."""
PEER_RATES = (700, 1_500, 3_000)
"""Asked of dnsmasq, so that it is not the question that limits the answer; the best counts."""
TIMES_PEER = 2
KNOWN_RATE = 4_500
"""Asked of both for machines that they know: more than dnsmasq does."""
KNOWN_STEP_S = 3
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
_PXE_OPTIONS = {60: b"PXEClient:Arch:00007:UNDI:003016", 93: b"\0\7", 97: b"\0" + bytes(range(16))}
_AS_FIRMWARE = [word for code, value in _PXE_OPTIONS.items() for word in ("-o", f"{code},{value.hex()}")]
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
    slowest_offer_ms: float
    """Of those that came at all."""


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
    def most_rss_bytes(self) -> int:
        """The most that the server's processes held so far, together."""
        return most_memory_bytes(self.process.pid)


def dnsmasq_command(directory: Path) -> list[str]:
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=e0"),
        *("--no-ping", f"--dhcp-range={POOL[0]},{POOL[1]},1h", "--dhcp-lease-max=70000", "--dhcp-authoritative"),
        *(f"--dhcp-leasefile={directory}/leases", f"--pid-file={directory}/pid"),
    ]


def roomcast_command() -> list[str]:
    return [str(ROOMCAST), "serve", "--interface", "e0", "--pool", f"{POOL[0]}-{POOL[1]}"]


@contextlib.contextmanager
def serving(
    lab: Run, name: str, *options: str, prepare: Callable[[str, str], None] | None = None, settle_s: float = SETTLE_S
) -> Iterator[Served]:
    """`name` is "roomcast" or "dnsmasq", with more `options`; a fresh one, without leases. It gives what is in POOL.

    `prepare` is told the server's and the client's namespace before the server starts.
    """
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
    if prepare is not None:
        prepare(server, client)
    log = lab.logs / f"{tag}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*inside(server), *command, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        _wait_for_port(process, server, log)
        time.sleep(settle_s)
        yield Served(process, client, server, directory)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], namespace: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while ":67 " not in run_program([*inside(namespace), "ss", "-Hlun"]):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"a DHCP server did not start: see {log}")
        time.sleep(0.1)


def bench_rate(lab: Run) -> Iterator[Figure]:
    """A steady rate, relayed: each time another machine."""
    theirs = 0.0
    for per_s in PEER_RATES:
        with serving(lab, "dnsmasq") as peer:
            theirs = max(theirs, measure_rate(peer, per_s, last_s=0).exchanges_per_s)
    wanted = max(RATE, TIMES_PEER * theirs)
    with serving(lab, "roomcast") as served:
        ours = measure_rate(served, round(wanted * 1.02), last_s=1)
    yield Figure(
        "dhcp exchanges a second, durable", ours.exchanges_per_s, "/s", wanted, True, f"dnsmasq {theirs:,.0f}/s"
    )
    yield Figure("dhcp unanswered in 1 s", ours.unanswered_percent, " %", MOST_UNANSWERED_PERCENT, False, digits=3)
    yield Figure("dhcp average answer", ours.average_ms, " ms", LONGEST_AVERAGE_MS, False, digits=1)


def bench_known(lab: Run) -> Iterator[Figure]:
    """The machines of one room, again and again: what dnsmasq is at its best in, for it writes all its leases anew."""
    rates = {}
    for name in ("dnsmasq", "roomcast"):
        with serving(lab, name) as served:
            measure_rate(served, RATE, last_s=1, machines=ROOM, step_s=1)
            rates[name] = measure_rate(served, KNOWN_RATE, last_s=0, machines=ROOM, step_s=KNOWN_STEP_S)
    told = f"dnsmasq {rates['dnsmasq'].exchanges_per_s:,.0f}/s"
    yield Figure(f"dhcp, {ROOM} known machines", rates["roomcast"].exchanges_per_s, "/s", RATE, True, told)


def bench_avalanche(lab: Run) -> Iterator[Figure]:
    """A room that is switched on at once."""
    with serving(lab, "dnsmasq") as peer:
        theirs = measure_avalanche(peer)
    with serving(lab, "roomcast") as served:
        ours = measure_avalanche(served)
    yield Figure(f"dhcp, {ROOM} at once, all leased", ours.seconds, " s", theirs.seconds, False, "dnsmasq", 2)
    yield Figure(f"dhcp, {ROOM} at once, first offer", ours.first_offer_ms, " ms", FIRST_OFFER_MS, False, digits=1)


def measure_rate(
    served: Served,
    per_s: int,
    *,
    last_s: int,
    machines: int = 60_000,
    step_s: int = STEP_S,
    as_firmware: bool = False,
) -> Rate:
    """Ask `per_s` times a second for `step_s` seconds, as one machine after the other.

    `last_s`: the wait for what was asked last, which would count as unanswered otherwise. Give none to a server that
    is asked for more than it can: it would work that much longer.
    """
    words = f"perfdhcp -4 -l {CLIENT} -R {machines} -r {per_s} -p {step_s} -W {last_s * 1_000_000}".split()
    text = _perfdhcp(served, [*words, *(_AS_FIRMWARE if as_firmware else ()), SERVER])
    # perfdhcp counts the wait as time in which it asks.
    exchanges = float(_number(r"Rate: ([\d.]+) 4-way exchanges/second", text)) * (step_s + last_s) / step_s
    sent = sum(int(n) for n in re.findall(r"sent packets: (\d+)", text))
    received = sum(int(n) for n in re.findall(r"received packets: (\d+)", text))
    delays = [float(n) for n in re.findall(r"avg delay: ([\d.]+) ms", text)]
    if not sent or not delays:
        raise LabError(f"perfdhcp got no answer: {text[-500:]}")
    return Rate(exchanges, 100 * max(0.0, 1 - received / sent), max(delays))


def measure_avalanche(served: Served, machines: int = ROOM, relay: str = CLIENT) -> Avalanche:
    """So many machines at once, each as UEFI firmware asks."""
    words = f"perfdhcp -4 -l {relay} --scenario avalanche -R {machines}".split()
    text = _perfdhcp(served, [*words, *_AS_FIRMWARE, SERVER])
    hours, minutes, seconds = _number(r"It took (\d+:\d+:[\d.]+) to provision", text).split(":")
    if int(_number(r"received packets: (\d+)(?![\s\S]*received packets)", text)) < machines:
        raise LabError(f"not every machine got its lease: {text[-500:]}")
    first_ms, slowest_ms = (
        float(_number(rf"DISCOVER-OFFER[\s\S]*?{which} delay: ([\d.]+) ms", text)) for which in ("min", "max")
    )
    return Avalanche(int(hours) * 3600 + int(minutes) * 60 + float(seconds), first_ms, slowest_ms)


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
