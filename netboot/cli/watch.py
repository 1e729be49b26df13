"""A session or a task as it goes on, redrawn with every word of the appliance."""

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from netboot.cli.client import ApplianceClient
from netboot.cli.output import bytes_text, console, duration_text, make_table, rate_text
from netboot.errors import ServiceError

BAR_CELLS = 24
POLL_S = 0.5
COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "pending": "dim"}


def watch_session(appliance: ApplianceClient, session_id: int) -> bool:
    """Follow a session to its end. True when every machine succeeded."""
    last: dict[str, Any] = {}
    output = console()
    if not output.is_terminal:
        for told in appliance.stream(f"/api/v1/sessions/{session_id}/events"):
            last = told
        output.print(draw_session(last))
    else:
        with Live(console=output, auto_refresh=False, transient=False) as live:
            for last in appliance.stream(f"/api/v1/sessions/{session_id}/events"):
                live.update(draw_session(last), refresh=True)
    if not last or last["state"] in ("waiting", "sending"):
        raise ServiceError("the appliance went away while it was watched: start it again")
    return all(task["state"] == "succeeded" for task in last["tasks"])


def watch_task(appliance: ApplianceClient, task_id: int) -> bool:
    """Follow one task to its end. True when it succeeded."""
    output = console()
    with Live(console=output, auto_refresh=False, transient=False) as live:
        while True:
            task = appliance.get(f"/api/v1/tasks/{task_id}")
            if output.is_terminal:
                live.update(_tasks_table([task]), refresh=True)
            if task["state"] not in ("pending", "running"):
                break
            time.sleep(POLL_S)
        live.update(_tasks_table([task]), refresh=True)
    succeeded: bool = task["state"] == "succeeded"
    return succeeded


def draw_session(session: dict[str, Any]) -> RenderableType:
    """Head, machines, and what the sender counted."""
    if not session:
        return Text("")
    tasks = session["tasks"]
    done = sum(task["state"] == "succeeded" for task in tasks)
    head = Text.assemble(
        (f"session {session['id']}", "bold"),
        f"  {session['image']} version {session['version']}  {session['state']}  {done} of {len(tasks)} done",
    )
    parts: list[RenderableType] = [head, Text(""), _tasks_table(tasks)]
    failed = [task for task in tasks if task["error"]]
    if failed:
        parts.append(Text(""))
        parts += [Text(f"{task['machine']}: {task['error']}", style="red") for task in failed]
    proofs = [task for task in tasks if task["proof"]]
    if proofs:
        parts += [Text(""), _proof_table(proofs)]
    if session["pace"]:
        parts += [Text(""), Text(f"sends {rate_text(session['pace']['sent_bps'] / 8)}: {session['pace']['reason']}")]
    counted = session["statistics"]
    if counted.get("sent_bytes"):
        parts.append(Text(""))
        parts.append(
            Text(
                f"sent {bytes_text(counted['sent_bytes'])} once for all in {duration_text(counted['elapsed_s'])}, "
                f"{counted['repair_packets']:.0f} repair packets, {counted['nacks']:.0f} NACKs"
            )
        )
    return Group(*parts)


def _tasks_table(tasks: Iterable[dict[str, Any]]) -> Table:
    rows = []
    for task in tasks:
        progress = task["progress"]
        running = task["state"] == "running"
        done, total = (progress["done_bytes"], progress["total_bytes"]) if progress else (0, 0)
        share = 1.0 if task["state"] == "succeeded" else done / total if total else 0.0
        rate = progress["rate_bytes_s"] if progress and running else 0.0
        step = (progress["step"] if progress else "starting") if running else task["state"]
        left = duration_text((total - done) / rate) if rate and total > done else ""
        quiet = f"silent {task['silent_s']:.0f} s" if running and (task["silent_s"] or 0) > 10 else ""
        rows.append(
            (
                task["machine"],
                Text(step, style=COLOURS.get(task["state"], "")),
                _bar(share, COLOURS.get(task["state"], "")),
                f"{100 * share:3.0f} %",
                rate_text(rate) if step == "receive" or not rate else f"{bytes_text(rate)}/s",
                (progress["note"] if progress and running else "") or left or quiet,
                task["lost_packets"] or "",
            )
        )
    return make_table(("machine", "step", "", "", "rate", "left", "lost"), rows, right=("rate", "left", "lost"))


def _bar(share: float, style: str) -> Text:
    filled = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return Text.assemble(("█" * filled, style), ("░" * (BAR_CELLS - filled), "grey37"))


def _proof_table(tasks: Iterable[dict[str, Any]]) -> Table:
    rows = []
    for task in tasks:
        proof = task["proof"]
        phases = "  ".join(f"{step} {duration_text(seconds)}" for step, seconds in proof["phases_s"].items())
        rows.append(
            (
                task["machine"],
                proof["chunks_verified"],
                proof["chunks_skipped"],
                bytes_text(proof["received_bytes"]),
                proof["repair_packets"],
                proof["lost_packets"],
                phases,
            )
        )
    columns = ("proof", "verified", "held before", "received", "repair", "lost", "phases")
    return make_table(columns, rows, right=columns[1:6])
