"""`roomcast doctor`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from netboot.cli.options import Data, Json, Socket


def register(app: typer.Typer) -> None:
    @app.command()
    def doctor(
        interface: Annotated[
            list[str] | None,
            typer.Option(
                "--interface",
                "-i",
                metavar="IF",
                help="Look at this interface; may be repeated (default: as configured).",
            ),
        ] = None,
        only: Annotated[
            list[str] | None, typer.Option("--only", metavar="CHECK", help="Make this check alone; may be repeated.")
        ] = None,
        listen: Annotated[
            float,
            typer.Option(metavar="SECONDS", min=1, max=300, help="How long to listen for IGMP queries."),
        ] = 4.0,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Leave out what is well.")] = False,
        data: Data = None,
        socket: Socket = None,
        config: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Settings file (default: /etc/roomcast/roomcast.toml).")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Why does no machine boot? Looks at this machine and asks its networks as machines would. Needs root.

        Asks DHCP as every kind of firmware, fetches boot files, looks at firewall, ports, multicast, disk and clock.
        Each finding comes with the next thing to do. Exit code 1 when there is a problem.
        """
        from netboot.doctor.examine import choose_checks, examine
        from netboot.doctor.findings import as_tree, count_by_severity, exit_code
        from netboot.doctor.subject import find_subject

        checks = choose_checks(only or ())
        subject, before = find_subject(interface or (), data, socket, config, listen)
        findings = []
        for some in examine(subject, before, checks):
            findings += some
            if not as_json:
                _print(some, quiet)
        counts = count_by_severity(findings)
        if as_json:
            from netboot.cli.output import print_json

            print_json(
                {
                    "findings": [as_tree(finding) for finding in findings],
                    "counts": {str(severity): count for severity, count in counts.items()},
                    "interfaces": [found.name for found in subject.interfaces],
                }
            )
        else:
            _sum_up(counts)
        raise typer.Exit(exit_code(findings))


_MARKS = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "red"),
}


def _print(findings: list[Any], quiet: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from netboot.cli.output import console

    shown = [finding for finding in findings if not (quiet and finding.severity == "ok")]
    if not shown:
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(width=9)
    table.add_column(width=7)
    table.add_column(overflow="fold")
    for number, finding in enumerate(shown):
        mark, colour = _MARKS[str(finding.severity)]
        text = Text(finding.text)
        if finding.action:
            text.append(f"\n→ {finding.action}", style="bold")
        table.add_row(Text("" if number else finding.check), Text(mark, style=f"bold {colour}"), text)
    console().print(table)


def _sum_up(counts: dict[Any, int]) -> None:
    from netboot.cli.output import console

    told = [
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in ("problem", "warning")
        if counts[severity]
    ]
    console().print(" and ".join(told) if told else "No problems and no warnings.", markup=False)
