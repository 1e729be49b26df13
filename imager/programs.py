"""Running programs of the distribution, with an error that can be pasted into a shell."""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from imager.errors import ToolError


def run(command: Sequence[str | Path], *, stdin: bytes | None = None, timeout_s: float | None = None) -> str:
    """Run `command` to its end and return its standard output.

    Raises ToolError when it cannot be started, ends with a status other than 0, or takes longer than `timeout_s`.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise ToolError(shlex.join(words), 127, f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(shlex.join(words), 124, f"no end after {timeout_s} s") from error
    if done.returncode:
        raise ToolError(shlex.join(words), done.returncode, (done.stdout + done.stderr).decode(errors="replace"))
    return done.stdout.decode(errors="replace")
