"""Bit rates on the command line. Imports nothing heavy."""

import typer

from netboot.bitrate import parse_bitrate


def bitrate_option(text: str | None) -> int:
    """The value of --max-bitrate; 0 when it is not given."""
    if text is None:
        return 0
    try:
        return parse_bitrate(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no bit rate from 100k to 1000g, as 900m is") from error
