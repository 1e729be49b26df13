"""`roomcast boot log`: what a machine did while it booted, and why it did not."""

import time
from typing import Annotated, Any

import typer

from netboot.cli.options import Json, Socket


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Boots: what each machine did, and why it does not boot.")
    app.add_typer(group, name="boot")

    @group.command()
    def log(
        machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its name, a MAC, or its address.")] = "",
        ignored: Annotated[bool, typer.Option("--ignored", help="What got no answer, of all machines.")] = False,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the machine does.")] = False,
        socket: Socket = None,
        as_json: Json = False,
    ) -> None:
        """Why does this machine not boot? Its last boot step by step, what is wrong, and what to do next."""
        from urllib.parse import quote

        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import console, make_table, print_json
        from netboot.errors import UserError

        with ApplianceClient(socket) as appliance:
            if ignored:
                packets = appliance.get("/api/v1/boot-log/ignored")
                if as_json:
                    print_json(packets)
                    return
                rows = [
                    (_clock(p["last_s"]), p["source"], _plain(p["what"]), _plain(p["reason"]), p["count"])
                    for p in packets
                ]
                console().print(make_table(("last", "from", "what", "why it got no answer", "times"), rows))
                return
            if not machine or "/" in machine or machine in (".", "..") or len(machine) > 63:
                raise UserError("name a machine: its name, a MAC or its address; or ask for --ignored")
            path = f"/api/v1/boot-log/machines/{quote(machine, safe='')}"
            if follow:
                _follow(appliance.stream(f"{path}/events"))
                return
            boots = appliance.get(path)
            if as_json:
                print_json(boots)
            elif not boots:
                print(f"Nothing was heard of {machine} yet: does its DISCOVER reach this network?")
            else:
                _show(boots[-1], 0, set(), head=True)


def _follow(stream: Any) -> None:
    started, shown, told = -1.0, 0, set[str]()
    try:
        for boots in stream:
            if not boots:
                continue
            boot = boots[-1]
            is_new = boot["started_s"] != started
            if is_new:
                started, shown, told = boot["started_s"], 0, set()
            shown = _show(boot, shown, told, head=is_new)
    except KeyboardInterrupt:
        return


def _show(boot: dict[str, Any], after: int, told: set[str], *, head: bool) -> int:
    """Print what was not printed yet; the number of the last entry."""
    if head:
        facts = [boot["machine"], boot["mac"], boot["address"], boot["firmware"]]
        print("  ".join(_plain(fact) for fact in facts if fact))
        print(
            f"boot of {time.strftime('%d %b %H:%M:%S', time.localtime(boot['started_s']))}: {_plain(boot['summary'])}"
        )
    for line in boot["lines"]:
        if line["number"] > after:
            print(f"{line['since_s']:7.1f}  {line['label']:9}{_plain(line['text'])}")
            if line["why"]:
                print(f"{'':18}  {_plain(line['why'])}")
            after = line["number"]
    for found in boot["diagnoses"]:
        if found["code"] not in told:
            told.add(found["code"])
            print(f"{found['severity']}: {_plain(found['text'])}\n  next: {_plain(found['next_step'])}", flush=True)
    return after


def _plain(text: str) -> str:
    from netboot.bootlog.words import shown

    return shown(text)


def _clock(then_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(then_s))
