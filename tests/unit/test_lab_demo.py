"""What the demo shows while machines are imaged."""

import signal
import subprocess
from dataclasses import asdict
from io import StringIO
from typing import Any

import pytest
from classroom.demo import Progress, Steps, main
from classroom.run import held_back_signals
from rich.console import Console

from imager.wire.messages import Progress as AgentProgress
from imager.wire.messages import TaskKind
from imager.wire.session import SlowPolicy
from netboot.deployment.overview import SessionView, TaskView
from netboot.model import SessionState, TaskState


def a_session(step: str, state: TaskState = TaskState.RUNNING, error: str = "") -> dict[str, Any]:
    progress = AgentProgress(step, 50, 100, 1e6, 5, 10) if state is TaskState.RUNNING else None
    ended = None if state is TaskState.RUNNING else 20.0
    task = TaskView(
        *(1, "pc1", 1, TaskKind.DEPLOY, "golden", 1, state, 0.0, 1.0, ended, error, progress, 0.1, 0, None, ())
    )
    over = SessionState.SENDING if ended is None else SessionState.FAILED
    return asdict(
        SessionView(
            id=1,
            image="golden",
            version=1,
            state=over,
            group="239.77.1.1",
            data_port=7400,
            created_s=0.0,
            ended_s=ended,
            min_receivers=0,
            max_wait_s=60.0,
            max_bitrate_bps=0,
            slow=SlowPolicy.DEMOTE,
            floor_bps=0,
            unicast=False,
            statistics={},
            pace=None,
            tasks=(task,),
            events=(),
        )
    )


def shown(terminal: bool) -> str:
    output = StringIO()
    steps = Steps(Console(file=output, force_terminal=terminal, width=120))
    with Progress(steps) as progress:
        for session in (a_session("scan"), a_session("receive"), a_session("receive")):
            progress.show(session)
        progress.show(a_session("", TaskState.FAILED, "disk too small"))
    return output.getvalue()


def test_into_a_pipe_each_step_is_one_line() -> None:
    lines = [line.split(" s  ")[1] for line in shown(terminal=False).splitlines()]
    assert lines == ["pc1: scan", "pc1: receive", "pc1: failed: disk too small"]


def test_on_a_terminal_the_session_is_drawn_over_itself() -> None:
    text = shown(terminal=True)
    assert "receive" in text
    assert "disk too small" in text
    assert "\x1b[" in text


@pytest.mark.parametrize(
    "words", [["--loss", "51"], ["--loss", "nan"], ["--bios", "-1"], ["--bios", "0", "--uefi", "0"]]
)
def test_a_classroom_that_makes_no_sense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "wanted" in capsys.readouterr().err


def test_an_interruption_waits_for_the_end_of_cleaning_up_and_does_not_reach_its_programs() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), held_back_signals():
        signal.raise_signal(signal.SIGINT)
        reached.append("after the signal")
        done = subprocess.run(["sh", "-c", "kill -INT $$; echo alive"], capture_output=True, text=True, check=False)
        reached.append(done.stdout.strip())
    assert reached == ["after the signal", "alive"]
