"""TFTP servers measured side by side, each in a namespace of its own: `roomcast serve`, dnsmasq, tftpd-hpa, atftpd.

All give the same files. The clients are curl, atftp, and one of our own (tftp_client): where a server sends by GSO,
atftp takes longer over a window than the server does.
"""

import contextlib
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from classroom.errors import LabError
from classroom.processes import most_memory_bytes
from classroom.run import CACHE, Run, inside
from imager.programs import run as run_program

SERVER = "10.81.0.1"
CLIENTS = [f"10.81.0.{number}" for number in range(2, 202)]
"""Each client at once has an address of its own, as in a room."""
BLOCK_BYTES = 1468
LARGE, SMALL = "agent/initrd.img", "agent/vmlinuz"
"""The names that the appliance gives them: 32 and 4 MiB."""
SIZES = {LARGE: 32 << 20, SMALL: 4 << 20}
START_S = 60.0
SETTLE_S = 0.3
"""Until all clients wait for the word."""
_AT_THE_WORD = ["sh", "-c", 'read word; exec "$@"', "sh"]
"""Waits for the end of its input, which all clients share: else the first has its file before the last has begun."""
ROOMCAST = Path(sys.executable).parent / "roomcast"


class Client(Enum):
    """Who fetches."""

    CURL = "curl"
    """Knows no windows."""
    ATFTP = "atftp"
    OURS = "ours"
    """While it fetches, its card joins packets of one flow, as cards do (GRO)."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Some clients that fetched a file at once."""

    seconds: float
    """From the first start to the last end."""
    bytes_each: int
    own_seconds: tuple[float, ...]
    """Of each client that got it whole, as it says itself; empty for atftp, which does not say."""
    whole: int
    """How many clients have the file, its hash checked."""
    wrong: int
    """How many say that they have it, and have something else."""
    complaint: str
    """Of a client that has no file, in its own words; empty when all have."""

    @property
    def mb_per_s(self) -> float:
        return self.whole * self.bytes_each / self.seconds / 1e6

    @property
    def own_mb_per_s(self) -> float:
        """Of one client: without its start and its end."""
        (seconds,) = self.own_seconds
        return self.bytes_each / seconds / 1e6

    @property
    def unfairness(self) -> float:
        """How often the fastest client's time the slowest took."""
        return max(self.own_seconds) / min(self.own_seconds)


class TftpServed:
    """A running server and its client's place."""

    def __init__(self, process: subprocess.Popen[bytes], client: str, directory: Path) -> None:
        self._process = process
        self._client = client
        self._directory = directory

    @property
    def most_rss_bytes(self) -> int:
        """The most that the server's processes held so far, together."""
        return most_memory_bytes(self._process.pid)

    def fetch(
        self, name: str, client: Client, *, window: int = 1, clients: int = 1, within_s: float = 120.0
    ) -> Fetched:
        """Fetch a file by so many clients at once. One that takes longer than `within_s` is ended."""
        if client is Client.OURS:
            with self._joined_packets():
                return self._fetch(name, client, window, clients, within_s)
        return self._fetch(name, client, window, clients, within_s)

    @contextlib.contextmanager
    def _joined_packets(self) -> Iterator[None]:
        run_program([*inside(self._client), "ethtool", "-K", "e0", "gro", "on"])
        yield
        run_program([*inside(self._client), "ethtool", "-K", "e0", "gro", "off"])

    def _fetch(self, name: str, client: Client, window: int, clients: int, within_s: float) -> Fetched:
        targets = [self._directory / f"{number}" for number in range(clients)]
        start, let_start = os.pipe()
        running = [
            subprocess.Popen(
                [*_AT_THE_WORD, *inside(self._client), *_client_command(client, name, target, CLIENTS[number], window)],
                stdin=start,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number, target in enumerate(targets)
        ]
        os.close(start)
        time.sleep(SETTLE_S)
        began = time.monotonic()
        os.close(let_start)
        said = []
        for each in running:
            try:
                said.append(each.communicate(timeout=max(0.1, began + within_s - time.monotonic()))[0])
            except subprocess.TimeoutExpired:
                each.kill()
                said.append(each.communicate()[0])
        seconds = time.monotonic() - began
        wanted = hashlib.sha256(_content(name)).digest()
        is_whole = [target.exists() and hashlib.sha256(target.read_bytes()).digest() == wanted for target in targets]
        for target in targets:
            target.unlink(missing_ok=True)
        ended_well = [each.returncode == 0 for each in running]
        wrong = sum(well and not whole for well, whole in zip(ended_well, is_whole, strict=True))
        own = tuple(
            float(match[1])
            for whole, text in zip(is_whole, said, strict=True)
            if whole and (match := re.search(r"took ([\d.]+)", text))
        )
        complaint = next((text.strip() for whole, text in zip(is_whole, said, strict=True) if not whole), "")
        return Fetched(seconds, SIZES[name], own, sum(is_whole), wrong, complaint)


def _client_command(client: Client, name: str, target: Path, address: str, window: int) -> list[str]:
    match client:
        case Client.CURL:
            size = ["--tftp-blksize", str(BLOCK_BYTES), "--write-out", "took %{time_total}"]
            quietly = ["curl", "--silent", "--show-error", "--interface", address]
            return [*quietly, *size, "--output", str(target), f"tftp://{SERVER}/{name}"]
        case Client.ATFTP:
            options = ["--option", f"blksize {BLOCK_BYTES}"]
            options += ["--option", f"windowsize {window}"] if window > 1 else []
            return ["atftp", *options, "--get", "-r", name, "-l", str(target), SERVER]
        case Client.OURS:
            program = [sys.executable, "-m", "classroom.tftp_client"]
            return [*program, SERVER, address, name, str(BLOCK_BYTES), str(window), str(target)]


def _content(name: str) -> bytes:
    return random.Random(name).randbytes(SIZES[name])


def _command(name: str, root: Path) -> list[str]:
    match name:
        case "roomcast":
            pool = "10.81.0.210-10.81.0.220"
            return [str(ROOMCAST), "serve", "--interface", "e0", "--pool", pool, "--page", "off"]
        case "dnsmasq":
            return [
                *("dnsmasq", "--keep-in-foreground", "--port=0", "--enable-tftp", f"--tftp-root={root}"),
                *("--user=root", "--tftp-max=500", "--conf-file=/dev/null", "--pid-file="),
            ]
        case "tftpd-hpa":
            return [str(CACHE / "peers" / "in.tftpd"), "-L", "-s", str(root), "-u", "root", "-a", SERVER]
        case "atftpd":
            user = ["--user", "root", "--group", "root"]
            return ["/usr/sbin/atftpd", "--daemon", "--no-fork", *user, "--maxthread", "500", str(root)]
    raise ValueError(name)


@contextlib.contextmanager
def tftp_serving(lab: Run, name: str, *, bad_line_seed: int | None = None) -> Iterator[TftpServed]:
    """One of the four, with the two files; over a bad line when there is a seed for it."""
    tag = f"{name}-{time.monotonic_ns() % 1_000_000}"
    directory = lab.directory / tag
    root = directory / "data"
    for file in SIZES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(_content(file))
    fetched = directory / "fetched"
    fetched.mkdir()
    with contextlib.ExitStack() as processes:
        server, client = _lay_cable(lab, tag, bad_line_seed, processes)
        environment = {
            **os.environ,
            "ROOMCAST_DATA": str(root),
            "ROOMCAST_SOCKET": str(directory / "api.sock"),
        }
        log = lab.logs / f"{tag}.log"
        process = _start([*inside(server), *_command(name, root)], log, processes, environment)
        deadline = time.monotonic() + START_S
        while ":69 " not in run_program([*inside(server), "ss", "-Hlun"]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"a TFTP server did not start: see {log}")
            time.sleep(0.1)
        served = TftpServed(process, client, fetched)
        yield served


def _start(
    command: list[str], log: Path, processes: contextlib.ExitStack, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    processes.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _lay_cable(lab: Run, tag: str, bad_line_seed: int | None, processes: contextlib.ExitStack) -> tuple[str, str]:
    server, client, between = (lab.namespace(f"{tag}-{end}") for end in "scb")
    ends = [(server, client, "e0")] if bad_line_seed is None else [(server, between, "s"), (client, between, "c")]
    for namespace in (server, client, *([between] if bad_line_seed is not None else [])):
        run_program(["ip", "netns", "add", namespace])
    for near, far, device in ends:
        run_program(f"ip link add e0 netns {near} type veth peer name {device} netns {far}".split())
    for namespace, addresses in ((server, [SERVER]), (client, CLIENTS)):
        commands = "".join(f"address add {address}/24 dev e0\n" for address in addresses)
        run_program([*inside(namespace), "ip", "-batch", "-"], stdin=commands.encode())
        # As before an ordinary card, each packet crosses the line alone.
        run_program([*inside(namespace), *["ethtool", "-K", "e0", "tx", "off", "tx-udp-segmentation", "off"]])
        run_program([*inside(namespace), "ip", "link", "set", "e0", "up"])
        run_program([*inside(namespace), "ip", "link", "set", "lo", "up"])
    if bad_line_seed is not None:
        for device in ("s", "c"):
            run_program([*inside(between), "ip", "link", "set", device, "up"])
        words = [sys.executable, "-m", "classroom.bad_line", str(bad_line_seed), "s", "c", "boot"]
        _start([*inside(between), *words], lab.logs / f"{tag}-line.log", processes)
    return server, client
