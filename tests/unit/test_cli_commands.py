"""The command line as a program: help, errors in one line, image work without an appliance."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from netboot.cli.main import build_app

APP = build_app()
COMMANDS = [
    (),
    ("serve",),
    ("deploy",),
    ("capture",),
    ("send",),
    ("receive",),
    ("agent", "build"),
    ("image", "capture"),
    ("image", "list"),
    ("image", "show"),
    ("image", "verify"),
    ("image", "import"),
    ("image", "restore"),
    ("session", "list"),
    ("session", "show"),
    ("session", "cancel"),
    ("machine", "list"),
    ("machine", "show"),
    ("machine", "rename"),
    ("machine", "group"),
    ("task", "list"),
    ("task", "show"),
    ("task", "cancel"),
    ("template", "render"),
    ("boot", "log"),
    ("database", "recover"),
    ("lease", "list"),
    ("lease", "recover"),
]


def roomcast(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ROOMCAST_DATA": str(directory / "data"),
        "ROOMCAST_SOCKET": str(directory / "api.sock"),
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "netboot.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "roomcast")
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(APP, [*command, "--help"], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "Usage: roomcast" in done.output
    described = [line for line in done.output.splitlines() if line.strip().endswith(".")]
    assert described, done.output
    assert " ." not in done.output, "a word in brackets was taken for markup"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("machine", "list"), 1, "no appliance serves here"),
        (("session", "show"), 1, "start it with `roomcast serve`"),
        (("image", "show", "nosuch"), 2, "there is no image nosuch"),
        (("image", "show", "../etc"), 2, "image name"),
        (("image", "capture", "/nosuch", "--name", "x"), 2, "/nosuch"),
        (("image", "capture", "/etc/hostname", "--name", "Not A Name"), 2, "image name"),
        (("image", "import", "/etc/hostname", "--name", "x"), 2, "is not a WIM"),
        (("image", "list", "--data", "/nosuch/data"), 1, "there is no data directory /nosuch/data: name the right one"),
        (("machine", "show", "a/b"), 2, "'a/b' is no name of a machine or group: see `roomcast machine list`"),
        (("machine", "show", "x" * 70), 2, "see `roomcast machine list`"),
        (("machine", "show", ".."), 2, "see `roomcast machine list`"),
        (
            ("template", "render", "nosuch", "--machine", "pc"),
            2,
            "no template nosuch for a machine; there is: unattend",
        ),
        (("template", "render", "grub/agent.cfg.j2", "--machine", "pc"), 2, "there is: unattend"),
        (("serve",), 2, "interfaces: missing"),
        (("serve", "--interface", "lo", "--mode", "relay"), 2, "mode: 'relay'"),
        (("serve", "--interface", "nosuch0"), 1, "no interface nosuch0"),
    ],
)
def test_error_is_one_line_that_says_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "data").mkdir()
    done = roomcast(tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("roomcast: ") and words in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy", "golden"),
        ("machine", "group", "room-101"),
        ("deploy", "golden:x", "--to", "all"),
        ("deploy", "golden", "--to", "all", "--max-bitrate", "fast"),
        ("deploy", "golden", "--to", "all", "--max-wait", "-1"),
        ("nosuch",),
    ],
)
def test_wrong_words_are_a_usage_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = roomcast(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr and "Traceback" not in done.stderr


def test_image_goes_in_is_listed_verified_and_comes_out_whole(tmp_path: Path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(bytes(range(256)) * 20_000)
    made = roomcast(tmp_path, "image", "capture", str(source), "--name", "disk")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("disk version 1: ")
    again = roomcast(tmp_path, "image", "capture", str(source), "--name", "disk")
    assert again.stdout.startswith("disk version 2: ")
    listed = json.loads(roomcast(tmp_path, "image", "list", "--json").stdout)
    assert [(image["name"], image["version"]) for image in listed] == [("disk", 1), ("disk", 2)]
    assert "disk" in roomcast(tmp_path, "image", "list").stdout
    assert "all whole" in roomcast(tmp_path, "image", "verify", "disk:1").stdout
    assert "disk version 2" in roomcast(tmp_path, "image", "show", "disk").stdout
    target = tmp_path / "out.img"
    restored = roomcast(tmp_path, "image", "restore", "disk:1", str(target))
    assert restored.returncode == 0, restored.stderr
    assert target.read_bytes() == source.read_bytes()


def test_damaged_image_is_told_with_exit_code_1(tmp_path: Path) -> None:
    source = tmp_path / "disk.img"
    source.write_bytes(os.urandom(3_000_000))
    roomcast(tmp_path, "image", "capture", str(source), "--name", "disk")
    pack = next((tmp_path / "data" / "images" / "versions" / "disk" / "1").glob("*.pack"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    done = roomcast(tmp_path, "image", "verify", "disk")
    assert done.returncode == 1
    assert pack.name in done.stderr and "Traceback" not in done.stderr


def test_send_starts_without_what_it_does_not_need() -> None:
    """Names of modules that take long to import, none of them for a file cast's command line."""
    code = (
        "import sys; from netboot.cli.main import build_app; build_app('send'); "
        "slow = 'fastapi sqlalchemy uvicorn httpx jinja2 numpy scapy rich.live netboot.config'.split(); "
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_disk_label_in_a_table_does_not_move_the_cursor() -> None:
    from io import StringIO

    from rich.console import Console

    from netboot.cli.output import make_table

    told = StringIO()
    Console(file=told, width=80).print(make_table(("label",), [("\x1b[2J\x9b1Aroot\nforged",)]))
    assert told.getvalue().splitlines()[1].rstrip() == "\\x1b[2J\\x9b1Aroot\\nforged"
