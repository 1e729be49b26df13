"""Bit rates on the command line. Imports nothing heavy."""

import typer


def parse_bitrate(text: str) -> int:
    """Bits a second of `900m`, `1.5g`, `250000k` or a number. ValueError otherwise."""
    factor = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    bits = float(text[:-1] if factor > 1 else text) * factor
    if not 1e5 <= bits <= 1e12:
        raise ValueError(f"{text} is not between 100k and 1000g")
    return int(bits)


def bitrate_option(text: str | None) -> int:
    """The value of --max-bitrate; 0 when it is not given."""
    if text is None:
        return 0
    try:
        return parse_bitrate(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no bit rate from 100k to 1000g, as 900m is") from error
