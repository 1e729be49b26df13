"""A whole classroom: real firmware, the real appliance and agent, real loss; proven by what the machines say."""

import os
from typing import Any

import pytest
from classroom.proof import find_doubts
from classroom.run import Run
from classroom.scenario import Options, Scenario

pytestmark = [
    pytest.mark.lab,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(1500),
]


def test_blank_bios_and_uefi_machines_get_an_image_over_a_lossy_network_and_boot_it() -> None:
    steps_seen: set[tuple[str, str]] = set()

    def show(session: dict[str, Any]) -> None:
        steps_seen.update((task["machine"], task["progress"]["step"]) for task in session["tasks"] if task["progress"])

    with Run() as run, Scenario(run, Options(bios=1, uefi=1, loss_percent=1.0), print) as scenario:
        machines = scenario.play(show)

    assert find_doubts(machines, scenario.image) == {"bios-1": [], "uefi-1": []}
    for machine in machines:
        assert machine.report is not None
        assert machine.dropped_packets > 0, "the network lost nothing: this has tested too little"
        assert machine.report.lost_packets > 0
        assert (machine.name, "receive") in steps_seen


@pytest.mark.long
def test_a_room_is_imaged_though_power_sender_and_appliance_are_cut_off_in_the_middle() -> None:
    said: list[str] = []
    with Run() as run, Scenario(run, Options(bios=1, uefi=1, trouble=True), said.append) as scenario:
        machines = scenario.play(lambda session: None)
    assert find_doubts(machines, scenario.image) == {"bios-1": [], "uefi-1": []}, said
    interrupted, other = (machine.report for machine in machines)
    assert interrupted is not None and other is not None
    # A blank disk holds chunks of zeros from the first.
    assert interrupted.chunks_skipped > other.chunks_skipped, "it did not go on where its disk was"
