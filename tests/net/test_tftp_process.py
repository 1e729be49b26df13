"""The process that serves TFTP: it breaks, its appliance breaks, the line is bad."""

import contextlib
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dhcp_tftp_running import Running, running
from netns import Host, Lan
from test_tftp_clients import SERVER, a_request, a_socket, by_atftp, by_curl, digest, finish, receive

from netboot.wire.tftp import Data, build_ack

pytestmark = pytest.mark.root

VM_LAB = Path(__file__).parents[2] / "vm-lab"
FOUR_MB = 4 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    (directory / "small").write_bytes(random.Random(1).randbytes(900))
    (directory / "large").write_bytes(random.Random(2).randbytes(FOUR_MB))
    return directory


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan(hosts=3) as network:
        yield network


@pytest.fixture
def server(lan: Lan, files: Path) -> Iterator[Running]:
    with running(lan.hosts[0], "tftp", "--files", str(files)) as program:
        yield program


def tftp_process(program: Running) -> int:
    """The process number of the one that serves."""
    tasks = Path(f"/proc/{program.process.pid}/task").iterdir()
    children = [int(number) for task in tasks for number in (task / "children").read_text().split()]
    (serving,) = [n for n in children if b"tftp_process" in Path(f"/proc/{n}/cmdline").read_bytes()]
    return serving


def rss_bytes(process: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) * 1024


def begin(client: socket.socket, name: str) -> tuple[Data, tuple[str, int]]:
    client.sendto(a_request(name), (SERVER, 69))
    packet, transfer = receive(client)
    assert isinstance(packet, Data)
    return packet, transfer


def test_a_process_that_is_killed_is_started_again_and_its_transfers_are_told_as_failed(
    lan: Lan, server: Running, files: Path, tmp_path: Path
) -> None:
    with a_socket(lan.hosts[1]) as client:
        begin(client, "large")
        first = tftp_process(server)
        os.kill(first, signal.SIGKILL)
        report = server.wait_for(lambda told: told.get("path") == "large")
    assert (report["outcome"], "process ended" in report["detail"]) == ("TransferFailed", True)
    lan.hosts[1].run(*by_curl("small", tmp_path / "small"))  # waits in the request socket until there is a process
    assert digest(tmp_path / "small") == digest(files / "small")
    assert tftp_process(server) != first
    assert server.counters()["failed"] == {"process": 1}


def test_a_process_that_hangs_is_killed_and_another_serves_what_waits(lan: Lan, files: Path, tmp_path: Path) -> None:
    with running(lan.hosts[0], "tftp", "--files", str(files), "--answer-within", "1") as program:
        with a_socket(lan.hosts[1]) as client:
            begin(client, "large")
            first = tftp_process(program)
            os.kill(first, signal.SIGSTOP)
            report = program.wait_for(lambda told: told.get("path") == "large")
        assert (report["outcome"], "process ended" in report["detail"]) == ("TransferFailed", True)
        lan.hosts[1].run(*by_curl("small", tmp_path / "small"))
        assert digest(tmp_path / "small") == digest(files / "small")
        assert tftp_process(program) != first
        assert not Path(f"/proc/{first}").exists()
        assert program.counters()["failed"] == {"process": 1}


def test_the_process_goes_first_and_keeps_no_right(server: Running) -> None:
    process = tftp_process(server)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
    assert (status["Groups"].strip(), status["NoNewPrivs"]) == ("", "1")
    assert os.getpriority(os.PRIO_PROCESS, process) == -10
    limits = Path(f"/proc/{process}/limits").read_text()
    assert re.search(r"^Max open files\s+(\d+)\s+\1\s", limits, re.MULTILINE), limits


def test_a_polite_signal_to_the_process_alone_breaks_no_transfer(lan: Lan, server: Running, files: Path) -> None:
    with a_socket(lan.hosts[1]) as client:
        packet, transfer = begin(client, "small")
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(tftp_process(server), number)
        finish(client, transfer, packet)
        assert server.wait_for(lambda told: told.get("path") == "small")["outcome"] == "TransferFinished"


def test_the_process_ends_with_its_appliance_and_tells_the_client(lan: Lan, files: Path) -> None:
    with (
        running(lan.hosts[0], "tftp", "--files", str(files)) as program,
        a_socket(lan.hosts[1]) as client,
    ):
        begin(client, "large")
        serving = os.pidfd_open(tftp_process(program))
        try:
            program.process.kill()
            while isinstance(packet := receive(client)[0], Data):
                pass
            assert "shutting down" in str(packet)
            assert select.select([serving], [], [], 10)[0], "the process outlives its appliance"
        finally:
            os.close(serving)


@contextlib.contextmanager
def bad_line(lan: Lan, seed: int) -> Iterator[None]:
    """Between the first two hosts, in place of the bridge."""
    ends: list[Host] = lan.hosts[:2]
    for host in ends:
        lan.bridge.run("ip", "link", "set", host.port, "nomaster")
    command = [sys.executable, "-m", "classroom.bad_line", str(seed), *(host.port for host in ends), "boot"]
    line = lan.bridge.popen(*command, env={**os.environ, "PYTHONPATH": str(VM_LAB)})
    try:
        yield
    finally:
        line.terminate()
        line.wait(10)


@pytest.mark.parametrize("window", [1, 4, 16])
def test_4_mb_arrive_whole_over_a_line_that_loses_doubles_and_reorders(
    files: Path, tmp_path: Path, window: int
) -> None:
    with (
        Lan(hosts=2, checksum_offload=False) as lan,
        bad_line(lan, seed=window),
        running(lan.hosts[0], "tftp", "--files", str(files)) as program,
    ):
        for _ in range(5):
            command = by_atftp("large", tmp_path / "f", f"windowsize {window}", "blksize 1468")
            done = subprocess.run(
                lan.hosts[1].command(*command), capture_output=True, text=True, timeout=240, check=False
            )
            if "unexpected OACK" not in done.stderr:  # atftp 0.8 gives up when its ACK of the options was lost
                break
        assert done.returncode == 0, done.stderr
        assert digest(tmp_path / "f") == digest(files / "large")
        report = program.wait_for(lambda told: told.get("outcome") == "TransferFinished")
        assert report["size"] == FOUR_MB
        assert program.counters()["failed"] == {}


def test_a_way_that_takes_no_bursts_gets_its_packets_one_by_one(files: Path, tmp_path: Path) -> None:
    """The kernel refuses to cut a burst into packets that are larger than the interface takes by then."""
    with Lan(hosts=2) as lan, running(lan.hosts[0], "tftp", "--files", str(files)) as program:
        lan.hosts[0].run("ip", "link", "set", "e0", "mtu", "1000")
        lan.hosts[1].run(*by_atftp("large", tmp_path / "f", "windowsize 8", "blksize 1468"))
        assert digest(tmp_path / "f") == digest(files / "large")
        report = program.wait_for(lambda told: told.get("outcome") == "TransferFinished")
        assert report["size"] == FOUR_MB and "resent=0" in report["detail"], report
        assert program.counters()["failed"] == {}


def test_hundreds_of_silent_transfers_take_bounded_memory(lan: Lan, server: Running, tmp_path: Path) -> None:
    process = tftp_process(server)
    before = rss_bytes(process)
    addresses = [f"10.99.0.{number}" for number in range(100, 120)]
    for address in addresses:
        lan.hosts[1].run("ip", "address", "add", f"{address}/24", "dev", "e0")
    sockets = []
    try:
        with lan.hosts[1].entered():
            for number in range(400):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sockets.append(sock)
                sock.bind((addresses[number % len(addresses)], 0))
                sock.settimeout(10)
        for sock in sockets:
            sock.sendto(a_request("large", "windowsize", "64", "blksize", "1468"), (SERVER, 69))
        for sock in sockets:
            _, transfer = receive(sock)
            sock.sendto(build_ack(0), transfer)  # from here on a window of 64 is on its way to each
        lan.hosts[2].run(*by_curl("small", tmp_path / "small"))
        assert rss_bytes(process) - before < 64 << 20
    finally:
        for sock in sockets:
            sock.close()
        for address in addresses:
            lan.hosts[1].run("ip", "address", "del", f"{address}/24", "dev", "e0")
