"""The TFTP server with clients that are not ours: tftpy, tftp-hpa, atftp, curl, busybox."""

import hashlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dhcp_tftp_running import Running, failure, running
from netns import Host, Lan

from netboot.wire.tftp import Data, Error, OptionAck, TftpPacket, build_ack, parse_tftp

pytestmark = pytest.mark.root

SIZES = [0, 1, 511, 512, 513, 100_000]
LARGE = 35_000_000
"""68,360 blocks of 512 bytes: more than 65,535."""
SERVER = "10.99.0.1"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    rng = random.Random(1350)
    for size in [*SIZES, LARGE]:
        (directory / f"f{size}").write_bytes(rng.randbytes(size))
    (directory / "text").write_bytes(b"one\ntwo\rthree\n")
    (directory / "directory").mkdir()
    os.mkfifo(directory / "fifo")
    return directory


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan(hosts=3) as network:
        yield network


@pytest.fixture
def server(lan: Lan, files: Path) -> Iterator[Running]:
    with running(lan.hosts[0], "tftp", "--files", str(files)) as program:
        yield program


Fetch = Callable[[str, Path], list[str]]


def by_tftpy(name: str, to: Path, options: str = "{}") -> list[str]:
    code = (
        "import json, sys, tftpy; name, to, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]); "
        f"tftpy.TftpClient('{SERVER}', 69, options).download(name, to)"
    )
    return [sys.executable, "-c", code, name, str(to), options]


def by_tftpy_with_options(name: str, to: Path) -> list[str]:
    return by_tftpy(name, to, '{"blksize": 1024, "tsize": 0}')


def by_tftp_hpa(name: str, to: Path) -> list[str]:
    return ["tftp", "-m", "binary", SERVER, "-c", "get", name, str(to)]


def by_atftp(name: str, to: Path, *options: str) -> list[str]:
    chosen = [word for option in options for word in ("--option", option)]
    return ["atftp", *chosen, "--get", "-r", name, "-l", str(to), SERVER]


def by_curl(name: str, to: Path) -> list[str]:
    return ["curl", "--silent", "--show-error", "--fail", "-o", str(to), f"tftp://{SERVER}/{name}"]


def by_curl_without_options(name: str, to: Path) -> list[str]:
    return [*by_curl(name, to), "--tftp-no-options"]


def by_busybox(name: str, to: Path) -> list[str]:
    return ["busybox", "tftp", "-g", "-r", name, "-l", str(to), SERVER]


CLIENTS: dict[str, Fetch] = {
    "tftpy": by_tftpy,
    "tftpy blksize tsize": by_tftpy_with_options,
    "tftp-hpa": by_tftp_hpa,
    "atftp": by_atftp,
    "atftp windowsize 4": lambda name, to: by_atftp(name, to, "windowsize 4", "blksize 1468"),
    "atftp windowsize 64": lambda name, to: by_atftp(name, to, "windowsize 64", "blksize 1468", "tsize 0"),
    "curl": by_curl,
    "curl without options": by_curl_without_options,
    "busybox": by_busybox,
}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("client", CLIENTS)
def test_files_of_all_sizes_arrive_whole(lan: Lan, server: Running, files: Path, tmp_path: Path, client: str) -> None:
    for size in SIZES:
        name = f"f{size}"
        lan.hosts[1].run(*CLIENTS[client](name, tmp_path / name))
        if size or not client.startswith("curl"):  # curl leaves no file behind when there is nothing in it
            assert digest(tmp_path / name) == digest(files / name)
        report = server.wait_for(lambda told, name=name: told.get("path", "").lstrip("/") == name)  # type: ignore[misc]
        assert (report["outcome"], report["size"]) == ("TransferFinished", size)
        assert report["blocks"] == size // report["block_bytes"] + 1
        assert [told["size"] for told in server.told if told.get("started", "").lstrip("/") == name] == [size]


@pytest.mark.parametrize("client", ["tftp-hpa", "curl without options", "atftp windowsize 16"])
def test_35_mb_in_blocks_of_512_bytes_roll_over(
    lan: Lan, server: Running, files: Path, tmp_path: Path, client: str
) -> None:
    name = f"f{LARGE}"
    if client.startswith("atftp"):
        command = by_atftp(name, tmp_path / name, "windowsize 16", "blksize 512")
    else:
        command = CLIENTS[client](name, tmp_path / name)
    lan.hosts[1].run(*command)
    assert digest(tmp_path / name) == digest(files / name)


@pytest.mark.parametrize("window", [1, 4, 16])
def test_a_file_arrives_whole_over_a_line_that_loses(files: Path, tmp_path: Path, window: int) -> None:
    name = "f100000"
    with Lan(hosts=2, loss_percent=1) as lan, running(lan.hosts[0], "tftp", "--files", str(files)) as program:
        whole = 0
        for attempt in range(20):
            to = tmp_path / str(attempt)
            command = lan.hosts[1].command(*by_atftp(name, to, f"windowsize {window}", "blksize 512"))
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if "unexpected OACK" in done.stderr:  # atftp 0.8 gives up when its ACK of the options was lost
                continue
            assert done.returncode == 0, done.stderr
            assert digest(to) == digest(files / name)
            whole += 1
            if whole == 3:
                break
        assert whole == 3
        assert program.counters()["failed"] == {}


def test_a_rendered_file_knows_who_asks(lan: Lan, server: Running, tmp_path: Path) -> None:
    lan.hosts[1].run(*by_curl("rendered", tmp_path / "rendered"))
    assert (tmp_path / "rendered").read_text() == f"for {lan.hosts[1].ip}\n"


def test_tsize_of_a_rendered_file_is_what_comes(lan: Lan, server: Running) -> None:
    with a_socket(lan.hosts[1]) as client:
        client.sendto(a_request("rendered", "tsize", "0"), (SERVER, 69))
        packet, transfer = receive(client)
        client.sendto(build_ack(0), transfer)
        data, _ = receive(client)
        assert isinstance(data, Data)
        assert packet == OptionAck({"tsize": str(len(data.payload))})
        assert data.payload.decode() == f"for {lan.hosts[1].ip}\n"
        client.sendto(build_ack(1), transfer)


def test_text_in_netascii_arrives_as_it_was(lan: Lan, server: Running, files: Path, tmp_path: Path) -> None:
    lan.hosts[1].run("tftp", "-m", "ascii", SERVER, "-c", "get", "text", str(tmp_path / "text"))
    assert (tmp_path / "text").read_bytes() == (files / "text").read_bytes()


def test_many_clients_at_once_all_get_the_file(lan: Lan, server: Running, files: Path, tmp_path: Path) -> None:
    name = "f100000"
    started = [
        lan.hosts[1 + number % 2].popen(*by_atftp(name, tmp_path / str(number), "windowsize 4")) for number in range(30)
    ]
    assert [process.wait(60) for process in started] == [0] * 30
    assert {digest(tmp_path / str(number)) for number in range(30)} == {digest(files / name)}


@pytest.mark.parametrize("name", ["nothing", "directory", "fifo", "raises"])
def test_what_cannot_be_read_is_an_error_to_the_client_and_the_service_goes_on(
    lan: Lan, server: Running, tmp_path: Path, name: str
) -> None:
    done = subprocess.run(
        lan.hosts[1].command(*by_curl(name, tmp_path / "x")), capture_output=True, timeout=20, check=False
    )
    assert done.returncode != 0
    assert server.wait_for(lambda told: told.get("path", "").lstrip("/") == name)["outcome"] != "TransferFinished"
    lan.hosts[1].run(*by_curl("f513", tmp_path / "f513"))


def test_a_write_is_refused(lan: Lan, server: Running, files: Path, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"x")
    done = subprocess.run(
        lan.hosts[1].command("curl", "--silent", "-T", str(tmp_path / "up"), f"tftp://{SERVER}/up"),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 69, "curl's code for an access violation"
    assert not (files / "up").exists()
    while "write request" not in server.counters()["ignored"]:  # the process tells them now and then
        pass


# Packet by packet


def a_socket(host: Host) -> socket.socket:
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host.ip, 0))
    sock.settimeout(5)
    return sock


def a_request(name: str, *words: str, mode: str = "octet") -> bytes:
    return b"\0\1" + b"".join(word.encode() + b"\0" for word in (name, mode, *words))


def receive(sock: socket.socket) -> tuple[TftpPacket, tuple[str, int]]:
    data, source = sock.recvfrom(2000)
    return parse_tftp(data), source


def finish(client: socket.socket, transfer: tuple[str, int], packet: TftpPacket) -> None:
    """Take the rest of a transfer of less than 65,536 blocks, from its packet that came last."""
    while True:
        block = packet.block if isinstance(packet, Data) else 0
        client.sendto(build_ack(block), transfer)
        if isinstance(packet, Data) and len(packet.payload) < 512:
            return
        packet, _ = receive(client)


def test_a_stranger_gets_error_5_and_the_transfer_is_undisturbed(lan: Lan, server: Running, files: Path) -> None:
    with a_socket(lan.hosts[1]) as client, a_socket(lan.hosts[2]) as stranger:
        client.sendto(a_request("f513"), (SERVER, 69))
        first, transfer = receive(client)
        assert isinstance(first, Data)
        stranger.sendto(build_ack(1), transfer)
        answer, _ = receive(stranger)
        assert isinstance(answer, Error)
        assert answer.code == 5
        client.sendto(build_ack(1), transfer)
        second, _ = receive(client)
        assert isinstance(second, Data)
        assert first.payload + second.payload == (files / "f513").read_bytes()
        client.sendto(build_ack(2), transfer)
        assert server.wait_for(lambda told: "path" in told)["outcome"] == "TransferFinished"


@pytest.mark.parametrize(
    "words", [("blksize", "abc"), ("blksize", "-1"), ("windowsize", "0"), ("tsize", "x"), ("timeout", "999")]
)
def test_a_bad_option_is_ignored(lan: Lan, server: Running, words: tuple[str, str]) -> None:
    with a_socket(lan.hosts[1]) as client:
        client.sendto(a_request("f513", *words), (SERVER, 69))
        packet, transfer = receive(client)
        assert isinstance(packet, Data)
        assert len(packet.payload) == 512
        finish(client, transfer, packet)
        assert server.wait_for(lambda told: "path" in told)["outcome"] == "TransferFinished"


def test_a_mode_that_is_not_served_is_error_4_and_told_with_its_name(lan: Lan, server: Running) -> None:
    with a_socket(lan.hosts[1]) as client:
        client.sendto(a_request("f513", mode="mail"), (SERVER, 69))
        packet, _ = receive(client)
    assert packet == Error(4, "mode is not served: ask for octet")
    report = server.wait_for(lambda told: told.get("path") == "f513")
    assert (report["size"], "'mail'" in report["detail"]) == (-1, True), report


def test_a_text_too_large_to_be_converted_is_refused(lan: Lan, server: Running) -> None:
    with a_socket(lan.hosts[1]) as client:
        client.sendto(a_request(f"f{LARGE}", mode="netascii"), (SERVER, 69))
        packet, _ = receive(client)
    assert isinstance(packet, Error)
    assert f"too large for netascii: {LARGE} bytes" in server.wait_for(lambda told: "path" in told)["detail"]


def test_a_repeated_request_does_not_start_a_second_transfer(lan: Lan, server: Running) -> None:
    with a_socket(lan.hosts[1]) as client:
        for _ in range(3):
            client.sendto(a_request("f513", "tsize", "0"), (SERVER, 69))
        packet, transfer = receive(client)
        assert packet == OptionAck({"tsize": "513"})
        finish(client, transfer, packet)
        server.wait_for(lambda told: "path" in told)
        assert server.counters()["ignored"]["repeated request"] == 2


def test_an_ack_to_the_request_port_is_answered_with_error_5(lan: Lan, server: Running) -> None:
    with a_socket(lan.hosts[1]) as client:
        client.sendto(build_ack(3), (SERVER, 69))
        packet, _ = receive(client)
        assert isinstance(packet, Error)
        assert packet.code == 5


def test_one_host_cannot_take_all_transfers(lan: Lan, server: Running, tmp_path: Path) -> None:
    sockets = [a_socket(lan.hosts[1]) for _ in range(40)]
    try:
        for sock in sockets:
            sock.sendto(a_request("f100000"), (SERVER, 69))
        while (counters := server.counters())["received"] < 40:
            pass
        assert counters["ignored"]["too many transfers"] == 8
        lan.hosts[2].run(*by_curl("f513", tmp_path / "f513"))
    finally:
        for sock in sockets:
            sock.close()


def test_junk_is_counted_and_a_clean_transfer_goes_on(lan: Lan, server: Running, files: Path, tmp_path: Path) -> None:
    rng = random.Random(69)
    with a_socket(lan.hosts[1]) as client:
        for number in range(2000):
            opcode = rng.choice([b"", b"\0\1", b"\0\2", b"\0\3", b"\0\4", b"\0\5", b"\0\6"])
            client.sendto(opcode + rng.randbytes(rng.randrange(600)), (SERVER, 69))
            if number % 50 == 49:
                server.counters()
    lan.hosts[1].run(*by_atftp("f100000", tmp_path / "f", "windowsize 16"))
    assert digest(tmp_path / "f") == digest(files / "f100000")
    while (counters := server.counters())["received"] < 2001:  # the process tells them now and then
        pass
    assert counters["junk"] > 500
    assert not [cause for cause in counters["failed"] if not cause.startswith(("send:", "receive:"))]


def test_a_silent_request_draws_few_packets(lan: Lan, server: Running) -> None:
    with a_socket(lan.hosts[1]) as client:
        client.sendto(a_request("f100000", "windowsize", "64", "timeout", "1"), (SERVER, 69))
        report = server.wait_for(lambda told: "path" in told, seconds=40)
        assert "the client never answered" in report["detail"]
        packets = []
        client.setblocking(False)
        while True:
            try:
                data = client.recv(2000)
            except BlockingIOError:
                break
            packets.append(data)
            assert isinstance(parse_tftp(data), OptionAck)
        assert 0 < len(packets) <= 6
        assert sum(map(len, packets)) < 3000


def test_a_port_in_use_is_one_clear_line(lan: Lan, server: Running) -> None:
    assert failure(lan.hosts[0], "tftp", "--files", "/").startswith("UDP port 69 on e0 is in use, so TFTP cannot be")
