"""`roomcast boot log`: what a machine did while it booted, and why it did not."""

import json
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netboot.cli.options import Json, Socket

if TYPE_CHECKING:
    from rich.console import Console

EARLIER = 5
"""Boots before the last one that are told in a line each."""
MIN_TEXT_COLUMNS = 20
COLOURS = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Boots: what each machine did, and why it does not boot.")
    app.add_typer(group, name="boot")

    @group.command()
    def log(
        machine: Annotated[
            str, typer.Argument(metavar="MACHINE", help="Its name, a MAC, its address, or how its UUID begins.")
        ] = "",
        ignored: Annotated[bool, typer.Option("--ignored", help="What got no answer, of all machines.")] = False,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the machine does.")] = False,
        socket: Socket = None,
        as_json: Json = False,
    ) -> None:
        """Why does this machine not boot? Its last boot step by step, what is wrong, and what to do next."""
        from urllib.parse import quote

        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import console, print_json
        from netboot.errors import UserError

        if ignored and (machine or follow):
            raise UserError("--ignored tells of all machines: leave MACHINE and --follow away")
        if not ignored and (not machine or "/" in machine or machine in (".", "..") or len(machine) > 63):
            raise UserError("name a machine: its name, a MAC, its address or how its UUID begins; or ask for --ignored")
        path = f"/api/v1/boot-log/machines/{quote(machine, safe='')}"
        with ApplianceClient(socket) as appliance:
            if ignored:
                told = appliance.get("/api/v1/boot-log/ignored")
                print_json(told) if as_json else _show_ignored(console(), told)
            elif follow:
                _follow(console(), machine, appliance.stream(f"{path}/events"), as_json=as_json)
            else:
                boots = appliance.get(path, count=EARLIER + 1)
                print_json(boots) if as_json else _show(console(), machine, boots)


def _show(output: "Console", machine: str, boots: list[dict[str, Any]]) -> None:
    from netboot.cli.output import make_table

    if not boots:
        output.print(f"Nothing was heard of {machine} yet: does its DISCOVER reach this network?", markup=False)
        return
    *earlier, last = boots
    shown = BootPrinter(output)
    shown.update(last)
    if earlier:
        rows = [
            (_clock(boot["started_s"]), _plain(boot["summary"]), "; ".join(_plain(d["text"]) for d in _faults(boot)))
            for boot in reversed(earlier)
        ]
        output.print()
        output.print(make_table(("earlier boots", "how far it came", "what was wrong"), rows))


def _follow(output: "Console", machine: str, stream: Iterable[Any], *, as_json: bool) -> None:
    """Until Ctrl-C."""
    from netboot.errors import ServiceError

    shown, waits = BootPrinter(output), False
    try:
        for boots in stream:
            if as_json:
                print(json.dumps(boots), flush=True)
            elif boots:
                shown.update(boots[-1])
            elif not waits:
                waits = True
                print(f"nothing was heard of {machine} yet; it is told here as it comes (Ctrl-C ends)", file=sys.stderr)
    except KeyboardInterrupt:
        return
    raise ServiceError("the appliance went away while it was watched: start it again")


class BootPrinter:
    """Prints a boot line by line, and each time what came since."""

    def __init__(self, output: "Console") -> None:
        self._output = output
        self._boot: tuple[str, float] | None = None
        self._counts: dict[int, int] = {}
        """How often each line had happened when it was printed, by its number."""
        self._faults: dict[str, dict[str, Any]] = {}
        """What was wrong when it was looked at last, by code."""

    def update(self, boot: dict[str, Any]) -> None:
        if self._boot != (boot["mac"], boot["started_s"]):
            if self._boot is not None:
                self._output.print()
            self._boot = (boot["mac"], boot["started_s"])
            self._counts, self._faults = {}, {}
            self._head(boot)
        for line in boot["lines"]:
            # What repeats itself is told again when it has doubled.
            if line["count"] >= 2 * self._counts.get(line["number"], 0):
                self._counts[line["number"]] = line["count"]
                self._print_line(line)
        found = {each["code"]: each for each in boot["diagnoses"]}
        over = [each for code, each in self._faults.items() if code not in found and each["severity"] != "note"]
        news = [each for code, each in found.items() if code not in self._faults]
        self._faults = found
        if over or news:
            self._output.print()
        for each in over:
            self._print_fault("no more", "bold green", each["text"])
        for each in news:
            self._print_fault(each["severity"], COLOURS.get(each["severity"], ""), each["text"])
            self._print_fault("next", "bold", each["next_step"])

    def _head(self, boot: dict[str, Any]) -> None:
        from rich.text import Text

        facts = [boot["machine"], boot["mac"], boot["address"], boot["firmware"]]
        self._output.print(Text("  ".join(_plain(fact) for fact in facts if fact), style="bold"))
        self._output.print(Text(f"boot of {_clock(boot['started_s'])}: {_plain(boot['summary'])}"))
        if boot["dropped"]:
            self._output.print(Text(f"{boot['dropped']} lines in its middle were not kept"))

    def _print_line(self, line: dict[str, Any]) -> None:
        indent = f"{line['since_s']:6.1f}  {line['label']:8}  "
        self._print(indent, line["text"], "" if line["ok"] else "red")
        if line["why"]:
            self._print(" " * len(indent), line["why"], "dim")

    def _print_fault(self, word: str, style: str, text: str) -> None:
        self._print(f"{word}: ", text, "", style)

    def _print(self, indent: str, text: str, style: str, indent_style: str = "") -> None:
        """A text beside its indent, however narrow the terminal."""
        from rich.text import Text

        width = max(self._output.width - len(indent), MIN_TEXT_COLUMNS)
        for part in Text(_plain(text)).wrap(self._output, width):
            part.rstrip()
            self._output.print(Text.assemble((indent, indent_style), (part.plain, style)), soft_wrap=True)
            indent = " " * len(indent)


def _show_ignored(output: "Console", told: dict[str, Any]) -> None:
    from netboot.cli.output import make_table

    packets, counted = told["packets"], told["counted"]
    if not packets and not counted:
        output.print("Everything that was asked got an answer.")
        return
    if packets:
        rows = [
            (_clock(p["last_s"]), p["source"], _plain(p["what"]), _plain(p["reason"]), _times(p["count"]))
            for p in packets
        ]
        output.print(make_table(("last", "from", "what", "why it got no answer", "times"), rows, right=("times",)))
        output.print()
    sums = [(each["count"], each["service"].upper(), _plain(each["reason"])) for each in counted]
    output.print(make_table(("times", "service", "why, of all senders since the start"), sums, right=("times",)))


def _times(count: int) -> str:
    return str(count) if count > 1 else ""


def _faults(boot: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for found in boot["diagnoses"] if found["severity"] != "note"]


def _plain(text: str) -> str:
    from netboot.bootlog.words import shown

    return shown(text)


def _clock(then_s: float) -> str:
    return time.strftime("%d %b %H:%M:%S", time.localtime(then_s))
