"""Every real TFTP client at every block size and window it can ask for: files of all sizes arrive as they are."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from dhcp_tftp_running import Running, running
from netns import Lan
from test_tftp_clients import LARGE, SERVER, by_atftp, by_busybox, by_curl, by_tftp_hpa, by_tftpy, digest

pytestmark = pytest.mark.root

SMALL = [0, 1, 511, 512, 513, 1467, 1468, 1469]
BLOCK_BYTES = [512, 1468]
WINDOWS = [1, 4, 16, 64]
CASES = [
    ("tftp-hpa", 512, 1),
    *[(client, block, 1) for client in ("curl", "busybox", "tftpy") for block in BLOCK_BYTES],
    *[("atftp", block, window) for block in BLOCK_BYTES for window in WINDOWS],
]


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
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    rng = random.Random(7440)
    for size in [*SMALL, LARGE]:
        (directory / f"f{size}").write_bytes(rng.randbytes(size))
    return directory


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan(hosts=2) as network:
        yield network


@pytest.fixture(scope="module")
def server(lan: Lan, files: Path) -> Iterator[Running]:
    with running(lan.hosts[0], "tftp", "--files", str(files)) as program:
        yield program


def fetch(lan: Lan, server: Running, files: Path, to: Path, size: int, client: str, block: int, window: int) -> None:
    name = f"f{size}"
    lan.hosts[1].run(*command(client, name, to / name, block, window))
    report = server.wait_for(lambda told: "path" in told)
    assert (report["outcome"], report["size"], report["block_bytes"]) == ("TransferFinished", size, block)
    assert report["blocks"] == size // block + 1
    if size or client != "curl":  # curl leaves no file behind when there is nothing in it
        assert digest(to / name) == digest(files / name)


@pytest.mark.parametrize(("client", "block", "window"), CASES)
def test_small_files_and_edges_of_blocks(
    lan: Lan, server: Running, files: Path, tmp_path: Path, client: str, block: int, window: int
) -> None:
    for size in SMALL:
        fetch(lan, server, files, tmp_path, size, client, block, window)


@pytest.mark.long
@pytest.mark.parametrize(("client", "block", "window"), CASES)
def test_35_mb(lan: Lan, server: Running, files: Path, tmp_path: Path, client: str, block: int, window: int) -> None:
    fetch(lan, server, files, tmp_path, LARGE, client, block, window)
