"""The boot matrix: every firmware beside every DHCP server comes to the agent, and without a task to its own disk."""

import os

import pytest
from classroom.matrix import FIRMWARE, Beside, Row, try_all, ways

pytestmark = [
    pytest.mark.long,
    pytest.mark.lab,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(3600),
]


@pytest.mark.parametrize("beside", Beside)
def test_every_firmware_reaches_the_agent_and_its_own_disk(beside: Beside) -> None:
    assert all(one.is_installed for one in FIRMWARE)
    chosen = [one for one in FIRMWARE if beside in ways(one)]
    rows = try_all(beside, chosen, print)
    bad: list[Row] = [row for row in rows if not row.is_good]
    assert not bad
