"""The known name that a mistyped one was meant to be. Pure."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_TYPED = 64


def suggest(typed: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?`, or where they are listed when no known name is near."""
    near = get_close_matches(typed[:LONGEST_TYPED].replace("_", "-").lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "; docs/configuration.md lists them"
