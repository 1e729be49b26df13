"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def split_image(text: str) -> tuple[str, int | None]:
    """NAME or NAME:VERSION."""
    name, colon, version = text.partition(":")
    if not colon:
        return name, None
    if not version.isdecimal() or not 1 <= int(version[:12]) < 2**31:
        raise typer.BadParameter(f"{text!r} is not IMAGE or IMAGE:VERSION, as in debian-12:3")
    return name, int(version)
