"""`roomcast boot log` as it is printed: fits the terminal, goes on line by line, and ends when it is told to."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_boot_diagnosis as plays
from boot_builders import Scene
from rich.console import Console

from netboot.cli.boot import BootPrinter, _follow, _show
from netboot.cli.main import main
from netboot.deployment.boot_log import boot_view
from netboot.errors import ServiceError


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def views(scene: Scene) -> list[dict[str, Any]]:
    """As the API tells them."""
    boots = scene.boots()
    seen: list[dict[str, Any]] = json.loads(
        json.dumps([boot_view(boot, boots[:number], scene.now) for number, boot in enumerate(boots)])
    )
    return seen


class Screen:
    def __init__(self, width: int = 80) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, width=width, highlight=False)

    def new(self) -> list[str]:
        """What was printed since the last time."""
        said = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return said.splitlines()


def test_boot_that_stopped_reads_like_this(scene: Scene) -> None:
    plays.tftp_stops_midway(scene)
    screen = Screen()
    _show(screen.console, "pc-01", views(scene))
    head, when, *rest = screen.new()
    assert head == "52:54:00:00:00:01  10.77.0.100  BIOS (arch 0)"
    assert when.startswith("boot of ") and when.endswith(": has an address")
    assert rest == [
        "   0.0  firmware  DISCOVER BIOS (arch 0), PXEClient:Arch:00000:UNDI:003016 ->",
        "                  OFFER 10.77.0.100 boot file bios/core.0 from 10.77.0.1",
        "                  a PXE ROM starts one program in real mode: GRUB made for PXE",
        "   1.0  firmware  REQUEST 10.77.0.100 -> ACK boot file bios/core.0 from",
        "                  10.77.0.1",
        "  21.8  firmware  TFTP bios/core.0: stopped after block 37 of 140",
        "                  the client stopped answering",
        "",
        "error: TFTP stops after block 37 of 140 of bios/core.0 (1432 bytes each)",
        "next: check cable, duplex and switch port; then the MTU and firewalls on the way",
    ]


@pytest.mark.parametrize("width", [200, 80, 50, 40])
def test_no_line_is_wider_than_the_terminal(scene: Scene, width: int) -> None:
    plays.task_fails(scene)
    scene.tftp_refused("\u202e" + "x" * 150 + "界" * 30)
    scene.wait(70)
    plays.boots_in_a_loop(scene)
    screen = Screen(width)
    _show(screen.console, "pc-01", views(scene))
    lines = screen.new()
    assert max(screen.console.measure(line).maximum for line in lines) <= width


def test_what_went_wrong_in_earlier_boots_is_told_beside_the_last(scene: Scene) -> None:
    plays.tftp_stops_midway(scene)
    scene.wait(70)
    scene.discover()
    screen = Screen(120)
    _show(screen.console, "pc-01", views(scene))
    lines = screen.new()
    assert lines[1].endswith(": has an offer")
    assert " ".join(lines[-2].split()) == "earlier boots how far it came what was wrong"
    assert "has an address" in lines[-1] and "TFTP stops after block 37 of 140" in lines[-1]


def test_following_prints_each_line_once_and_tells_when_a_fault_is_over(scene: Scene) -> None:
    screen = Screen()
    printer = BootPrinter(screen.console)
    scene.discover()
    printer.update(views(scene)[-1])
    assert len(screen.new()) == 5
    printer.update(views(scene)[-1])
    assert screen.new() == []
    scene.wait(4)
    scene.discover()
    printer.update(views(scene)[-1])
    assert screen.new()[1].endswith("from 10.77.0.1  (x2)")
    scene.wait(20)
    printer.update(views(scene)[-1])
    assert screen.new()[1].startswith("error: it was offered to 2 times")
    printer.update(views(scene)[-1])
    assert screen.new() == []
    scene.lease()
    printer.update(views(scene)[-1])
    assert any(line.startswith("no more: it was offered to 2 times") for line in screen.new())
    plays.agent_waits(scene)
    printer.update(views(scene)[-1])
    said = screen.new()
    assert "note: the agent runs and waits for a task" in said
    assert "52:54:00:00:00:01  10.77.0.100  BIOS (arch 0)" not in said, "it is the same boot"


def test_following_tells_the_next_boot_from_its_head(scene: Scene) -> None:
    screen = Screen()
    printer = BootPrinter(screen.console)
    scene.lease()
    printer.update(views(scene)[-1])
    screen.new()
    scene.wait(90)
    scene.lease()
    printer.update(views(scene)[-1])
    assert screen.new()[:2] == ["", "52:54:00:00:00:01  10.77.0.100  BIOS (arch 0)"]


def interrupted(*told: list[dict[str, Any]]) -> Iterator[Any]:
    yield from told
    raise KeyboardInterrupt


def test_ctrl_c_ends_following_without_a_word(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.lease()
    screen = Screen()
    _follow(screen.console, "pc-01", interrupted([], [], views(scene)), as_json=False)
    assert len(screen.new()) == 7
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "nothing was heard of pc-01 yet; it is told here as it comes (Ctrl-C ends)\n"


def test_appliance_that_ends_while_it_is_followed_is_an_error(scene: Scene) -> None:
    with pytest.raises(ServiceError, match="went away"):
        _follow(Screen().console, "pc-01", [views(scene)], as_json=False)


def test_following_as_json_is_a_line_each_time(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.lease()
    _follow(Screen().console, "pc-01", interrupted(views(scene), views(scene)), as_json=True)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == json.loads(second) == views(scene)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name a machine"),
        (["a/b"], "name a machine"),
        ([".."], "name a machine"),
        (["x" * 64], "name a machine"),
        (["--ignored", "pc-01"], "leave MACHINE and --follow away"),
        (["--ignored", "--follow"], "leave MACHINE and --follow away"),
    ],
)
def test_what_cannot_be_asked_is_told(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["roomcast", "boot", "log", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
