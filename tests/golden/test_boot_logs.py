"""Boots of real firmware, recorded (tests/lab/record_boots.py), as `roomcast boot log` tells them in 80 columns.

`seabios-deploy` is of a run of vm-lab/demo. `.venv/bin/python tests/golden/test_boot_logs.py` writes the
texts anew: read what changed before you keep it.
"""

import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from netboot.bootlog.diagnosis import Severity, diagnose
from netboot.bootlog.documents import boot_document, parse_boot
from netboot.bootlog.events import Entry, Fetch, FetchState
from netboot.bootlog.timeline import BootLog, BootRecord
from netboot.cli.boot import _show
from netboot.deployment.boot_log import boot_view

BOOTS = Path(__file__).parents[1] / "data" / "boots"
RECORDED = sorted(BOOTS.glob("*.json"))
LATER_S = 300.0
"""After its last event: who wanted to go on has done so."""


def recorded(path: Path) -> list[BootRecord]:
    boots = [parse_boot(document) for document in json.loads(path.read_text())]
    return [boot for boot in boots if boot is not None]


def text_of(boots: list[BootRecord]) -> str:
    now = boots[-1].last_s + LATER_S
    views = [boot_view(boot, boots[:number], now) for number, boot in enumerate(boots)]
    screen = io.StringIO()
    _show(Console(file=screen, width=80, highlight=False), "", json.loads(json.dumps(views)))
    return screen.getvalue()


@pytest.fixture(autouse=True)
def in_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_boot_is_told_as_before(path: Path) -> None:
    assert text_of(recorded(path)) == path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_boot_is_a_document_that_comes_back_equal(path: Path) -> None:
    assert [boot_document(boot) for boot in recorded(path)] == json.loads(path.read_text())


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_events_of_a_recorded_boot_fall_into_the_same_boots_again(path: Path) -> None:
    """In their order, without the counts of what was repeated and the beginnings of transfers."""
    log = BootLog()
    for boot in recorded(path):
        for entry in boot.entries:
            log.record(boot.mac, entry.event, entry.at_s)
    boots = recorded(path)
    again = log.boots(boots[0].mac)
    assert [boot.started_s for boot in again] == [boot.started_s for boot in boots]
    assert [len(boot.entries) for boot in again] == [len(boot.entries) for boot in boots]


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("seabios-tftp-blocked", ["never-fetched"]),
        ("seabios-agent-silent", ["agent-missing"]),
        ("seabios-deploy", []),
        ("seabios-own-disk", []),
        ("ovmf-own-disk-fails", ["no-way-home"]),
        ("ovmf-agent-silent", ["agent-missing"]),
        ("ovmf-http", ["volume-silent"]),
        ("ovmf-secure-kernel-refused", ["kernel-refused"]),
        ("seabios-proxy", ["agent-missing"]),
        ("ovmf-proxy-secure-boot-refused", ["secure-boot-refused"]),
        ("ovmf-proxy-ipxe-chained", ["agent-missing"]),
    ],
)
def test_what_was_wrong_with_a_recorded_boot_is_found(name: str, codes: list[str]) -> None:
    boot = recorded(BOOTS / f"{name}.json")[-1]
    assert [found.code for found in diagnose(boot, boot.last_s + LATER_S)] == codes


@pytest.mark.parametrize("name", ["seabios-deploy", "seabios-own-disk"])
def test_at_no_moment_of_a_boot_that_goes_well_anything_is_wrong(name: str) -> None:
    boots = recorded(BOOTS / f"{name}.json")
    for number, boot in enumerate(boots):
        for seen in range(1, len(boot.entries)):
            comes = boot.entries[seen]
            entries = (*boot.entries[:seen], *on_its_way(comes))
            found = diagnose(replace(boot, entries=entries, next_s=None), comes.at_s - 0.001, boots[:number])
            assert [each for each in found if each.severity is not Severity.NOTE] == [], entries[-1]


def on_its_way(entry: Entry) -> Iterator[Entry]:
    """The beginning of a transfer, whose place its end has taken."""
    if isinstance(entry.event, Fetch) and entry.event.state is FetchState.DONE:
        began_s = entry.at_s - entry.event.seconds
        running = Fetch(entry.event.transport, entry.event.path, FetchState.RUNNING, entry.event.size)
        yield replace(entry, event=running, at_s=began_s, last_s=began_s)


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    for each in RECORDED:
        each.with_suffix(".txt").write_text(text_of(recorded(each)))
