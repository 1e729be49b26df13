"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from imager.wire.session import SlowPolicy

Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Data directory (env: ROOMCAST_DATA; default: /var/lib/roomcast)."),
]
Socket = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="The appliance's socket (env: ROOMCAST_SOCKET; default: /run/roomcast/api.sock).",
    ),
]
Slow = Annotated[
    str,
    typer.Option(
        "--slow",
        metavar="wait|demote|fail",
        help="Machines slower than the others: all wait; or they get the rest after the others; or they fail.",
    ),
]
Floor = Annotated[
    str | None,
    typer.Option("--floor", metavar="RATE", help="Slow is who takes less (default: clearly less than the others)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def slow_option(text: str) -> SlowPolicy:
    """The value of --slow."""
    try:
        return SlowPolicy(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is none of wait, demote and fail") from error


def split_image(text: str) -> tuple[str, int | None]:
    """NAME or NAME:VERSION."""
    name, colon, version = text.partition(":")
    if not colon:
        return name, None
    if not version.isdecimal() or not 1 <= int(version[:12]) < 2**31:
        raise typer.BadParameter(f"{text!r} is not IMAGE or IMAGE:VERSION, as in debian-12:3")
    return name, int(version)
