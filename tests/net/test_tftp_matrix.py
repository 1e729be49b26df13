"""Every real TFTP client at `roomcast serve`, at every block size and window it can ask for: files come as they are.

The files lie where `roomcast agent build` puts its own. What was agreed is read from the line, and how it ended from
the boot log.
"""

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import Served, serving
from test_boot_log import MAC, lease
from test_tftp_clients import LARGE, SERVER, by_atftp, by_busybox, by_curl, by_tftp_hpa, by_tftpy, digest

from netboot.cli.client import ApplianceClient
from netboot.errors import WireError
from netboot.wire.tftp import Ack, Data, OptionAck, TftpPacket, parse_tftp

pytestmark = pytest.mark.root

NAME = "agent/initrd.img"
SMALL = [0, 1, 511, 512, 513, 1467, 1468, 1469]
WINDOWED = 200_000
"""Two windows of 64 and more, at both block sizes."""
BLOCK_BYTES = [512, 1468]
WINDOWS = [1, 4, 16, 64]
CASES = [
    ("tftp-hpa", 512, 1),
    *[(client, block, 1) for client in ("curl", "busybox", "tftpy") for block in BLOCK_BYTES],
    *[("atftp", block, window) for block in BLOCK_BYTES for window in WINDOWS],
]
ETH_P_ALL = 3
TOLD_WITHIN_S = 20.0


def command(client: str, name: str, to: Path, block: int, window: int) -> list[str]:
    match client:
        case "tftp-hpa":
            return by_tftp_hpa(name, to)
        case "curl":
            return [*by_curl(name, to), "--tftp-blksize", str(block)]
        case "busybox":
            return [*by_busybox(name, to)[:-1], "-b", str(block), SERVER]
        case "tftpy":
            return by_tftpy(name, to, json.dumps({"blksize": block, "tsize": 0}))
    return by_atftp(name, to, f"blksize {block}", f"windowsize {window}")


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan(hosts=2) as network:
        yield network


@pytest.fixture(scope="module")
def served(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(lan.hosts[0], tmp_path_factory.mktemp("served"), "--page", "off") as appliance:
        leased = lease(lan.hosts[1])
        lan.hosts[1].run("ip", "address", "flush", "dev", INTERFACE)  # its clients speak with the leased one
        lan.hosts[1].run("ip", "address", "add", f"{leased}/24", "dev", INTERFACE)
        yield appliance


def put(served: Served, size: int) -> Path:
    """A new file in place of the one before it, as an installer puts it."""
    file = served.data / NAME
    file.parent.mkdir(exist_ok=True)
    new = file.with_suffix(".new")
    new.write_bytes(random.Random(size).randbytes(size))
    new.replace(file)
    return file


def fetch(lan: Lan, served: Served, to: Path, size: int, client: str, block: int, window: int) -> None:
    """Fetch it, and see that all of it came and that the boot log tells so."""
    file, before = put(served, size), last_fetch(served)
    lan.hosts[1].run(*command(client, NAME, to, block, window))
    deadline = time.monotonic() + TOLD_WITHIN_S
    while (told := last_fetch(served)).get("number") == before.get("number") or told["state"] == "running":
        assert time.monotonic() < deadline, served.log()
    wanted = {"state": "done", "size": size, "block_bytes": block, "blocks": size // block + 1, "resent": 0}
    assert {name: told.get(name, 0) for name in wanted} == wanted
    if size or client != "curl":  # curl leaves no file behind when there is nothing in it
        assert digest(to) == digest(file)


def last_fetch(served: Served) -> dict[str, Any]:
    with ApplianceClient(served.directory / "api.sock") as appliance:
        (boot,) = appliance.get(f"/api/v1/boot-log/machines/{MAC}")
    fetches: list[dict[str, Any]] = [entry for entry in boot["entries"] if entry["kind"] == "fetch"]
    return fetches[-1] if fetches else {}


class Capture:
    """What TFTP said on a host's interface, while it was open."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.packets: list[TftpPacket] = []

    def read(self) -> None:
        while True:
            try:
                frame = self._sock.recv(65536)
            except BlockingIOError:
                return
            datagram = frame[14 + 4 * (frame[14] & 15) :]
            if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP:
                try:
                    self.packets.append(parse_tftp(datagram[8:]))
                except WireError:
                    continue


@contextmanager
def capture(host: Host) -> Iterator[Capture]:
    with host.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        sock.bind((INTERFACE, ETH_P_ALL))
        sock.setblocking(False)
        seen = Capture(sock)
        yield seen
        seen.read()


@pytest.mark.parametrize(("client", "block", "window"), CASES)
def test_small_files_and_edges_of_blocks(
    lan: Lan, served: Served, tmp_path: Path, client: str, block: int, window: int
) -> None:
    for size in SMALL:
        fetch(lan, served, tmp_path / str(size), size, client, block, window)


@pytest.mark.parametrize(("client", "block", "window"), CASES)
def test_the_window_that_was_asked_for_is_agreed_and_used(
    lan: Lan, served: Served, tmp_path: Path, client: str, block: int, window: int
) -> None:
    with capture(lan.hosts[1]) as seen:
        fetch(lan, served, tmp_path / "file", WINDOWED, client, block, window)
    agreed = [packet.options for packet in seen.packets if isinstance(packet, OptionAck)]
    assert agreed == [] if client == "tftp-hpa" else agreed[0].get("blksize", "512") == str(block)
    if client == "atftp":
        assert agreed[0]["windowsize"] == str(window)
    last = WINDOWED // block + 1
    ends = [*range(window, last, window), last]
    assert [packet.block for packet in seen.packets if isinstance(packet, Ack) and packet.block] == ends
    # A burst that nobody cut on the way is one packet here, with the number of its first block.
    starts = [packet.block for packet in seen.packets if isinstance(packet, Data)]
    assert set(starts) >= {1, *(end + 1 for end in ends[:-1])}


@pytest.mark.long
@pytest.mark.parametrize(("client", "block", "window"), CASES)
def test_35_mb(lan: Lan, served: Served, tmp_path: Path, client: str, block: int, window: int) -> None:
    fetch(lan, served, tmp_path / "file", LARGE, client, block, window)
