"""What the classroom needs before a machine is switched on, kept in the cache from one run to the next."""

import fcntl
import os
import shutil
import sys
from pathlib import Path

from classroom.processes import run_contained

ROOMCAST = Path(sys.executable).with_name("roomcast")


def agent_files(cache: Path, destination: Path, *, temporary: Path, log: Path) -> None:
    """Put the agent's kernel and initramfs into the new directory `destination`.

    `roomcast agent build` keeps its slow part in the cache and takes up every change of the agent's own code.
    """
    data = cache / "agent-build"
    data.mkdir(parents=True, exist_ok=True)
    with (cache / "agent.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in (data / "agent" / "cache").glob("agent-*"):  # of a build that was killed
            shutil.rmtree(left)
        run_contained([ROOMCAST, "agent", "build", "--data", data], log=log, temporary=temporary)
        destination.mkdir(parents=True)
        for name in ("vmlinuz", "initrd.img", "agent.json"):
            os.link(data / "agent" / name, destination / name)
