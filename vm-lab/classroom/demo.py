"""`vm-lab/demo`: one command from nothing to a classroom of machines that were imaged and prove it."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from classroom.builds import ROOMCAST
from classroom.errors import LabError
from classroom.processes import BackgroundProcess, last_lines
from classroom.proof import find_doubts
from classroom.relay import PAGE_PORT, free_port, relay_command
from classroom.report import proof_tables
from classroom.run import Run
from classroom.scenario import Options, Scenario
from imager.errors import ImagerError
from netboot.cli.watch import draw_session
from netboot.errors import NetbootError

MOST_MACHINES = 32


class Steps:
    """Says what happens, each line with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        seconds = time.monotonic() - self._started
        self.console.print(f"{seconds:7.1f} s  {line}", markup=False, highlight=False, soft_wrap=True)


class Progress:
    """Shows a session: redrawn on a terminal, otherwise a line whenever a machine begins another step."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._live = Live(console=steps.console, auto_refresh=False)
        self._seen: dict[str, str] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, session: dict[str, Any]) -> None:
        if self._steps.console.is_terminal:
            self._live.start()  # from the first time on; again it does nothing
            self._live.update(draw_session(session), refresh=True)
            if session["ended_s"] is not None:
                self._live.stop()
            return
        for task in session["tasks"]:
            progress = task["progress"]
            step = (progress and task["state"] == "running" and progress["step"]) or task["state"]
            if self._seen.get(task["machine"]) != step:
                self._seen[task["machine"]] = step
                self._steps.say(f"{task['machine']}: {step}{': ' + task['error'] if task['error'] else ''}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. 0 only when every machine is proven."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.bios + options.uefi == 0:
        parser.error("at least one machine is wanted")
    chosen = Options(options.bios, options.uefi, options.loss, options.pcap, options.trouble)
    console = Console()
    steps = Steps(console)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    scenario = None
    try:
        with Run() as run:
            try:
                with Scenario(run, chosen, steps.say) as scenario:
                    proven = _play(scenario, chosen, steps)
                    if options.keep:
                        _keep(run, scenario, console)
                    return 0 if proven else 1
            except (LabError, NetbootError, ImagerError) as error:
                _explain(error, scenario, console)
                return 1
            finally:
                console.print(f"\nLogs of this run: {run.logs}", markup=False, highlight=False)
    except KeyboardInterrupt:
        console.print("Interrupted; everything of the classroom is removed.", markup=False)
        return 130
    except LabError as error:
        console.print(f"vm-lab/demo: {error}", markup=False)
        return 1


def _play(scenario: Scenario, options: Options, steps: Steps) -> bool:
    with Progress(steps) as progress:
        machines = scenario.play(progress.show)
    doubts = find_doubts(machines, scenario.image)
    for table in proof_tables(machines, scenario.image, doubts, options.loss_percent):
        steps.console.print()
        steps.console.print(table)
    unproven = [name for name, why in doubts.items() if why]
    if not unproven:
        steps.say(f"{len(machines)} of {len(machines)} machines proven")
        return True
    steps.say(f"not proven: {', '.join(unproven)}")
    for machine in (m for m in scenario.machines if m.spec.name in unproven):
        _show_log(machine.spec.name, machine.serial.path, steps.console)
    _show_log("roomcast serve", scenario.serve_log, steps.console)
    return False


def _keep(run: Run, scenario: Scenario, console: Console) -> None:
    """Serve on until Ctrl-C."""
    socket, network = scenario.socket, scenario.classroom
    log = run.logs / "relay.log"
    port = free_port(PAGE_PORT)
    command = relay_command(network.server, port, PAGE_PORT)
    with BackgroundProcess("relay of the page", command, log=log) as relay:
        enter = f"nsenter --net=/run/netns/{network.server}"
        for line in (
            "",
            "The classroom stays until Ctrl-C. To look around:",
            f"  page      http://127.0.0.1:{port}/",
            f"  commands  {ROOMCAST} machine list --socket {socket}",
            f"            {ROOMCAST} session show --socket {socket}",
            f"  network   {enter} ip address",
            f"  logs      {run.logs}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        while True:
            relay.check()
            time.sleep(0.5)


def _explain(error: Exception, scenario: Scenario | None, console: Console) -> None:
    console.print(f"\nvm-lab/demo: {error}", markup=False, highlight=False, soft_wrap=True)
    if isinstance(error, LabError) and error.log:
        console.print(_indented(error.log), markup=False, highlight=False, soft_wrap=True)
    if scenario is not None:
        _show_log("roomcast serve", scenario.serve_log, console)


def _show_log(title: str, log: Path, console: Console) -> None:
    if said := last_lines(log):
        console.print(f"\n{title}; last lines of {log.name}:", markup=False, highlight=False, soft_wrap=True)
        console.print(_indented(said), markup=False, highlight=False, soft_wrap=True)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vm-lab/demo",
        description="Boots emulated machines with blank disks from the network, casts an image to all of them at "
        "once, lets each boot its own disk, and prints what proves it. Exit code 0: every machine is proven.",
    )
    parser.add_argument("--bios", type=_count, default=1, metavar="N", help="machines with BIOS (default: 1)")
    parser.add_argument("--uefi", type=_count, default=1, metavar="M", help="machines with UEFI (default: 1)")
    parser.add_argument(
        "--loss",
        type=_percent,
        default=0.0,
        metavar="PERCENT",
        help="packets to each machine that get lost (default: 0)",
    )
    parser.add_argument(
        "--trouble",
        action="store_true",
        help="cut a machine's power, kill the sender, kill and restart the appliance, all in the middle of the cast",
    )
    parser.add_argument("--keep", action="store_true", help="serve on until Ctrl-C, to look around")
    parser.add_argument(
        "--pcap", type=Path, metavar="FILE", help="write the appliance's packets to FILE, but for the bulk of the cast"
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MOST_MACHINES:
        raise argparse.ArgumentTypeError(f"{value}: 0 to {MOST_MACHINES} is wanted")
    return value


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 50:
        raise argparse.ArgumentTypeError(f"{value:g}: 0 to 50 is wanted")
    return value


if __name__ == "__main__":
    sys.exit(main())
