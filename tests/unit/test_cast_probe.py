"""The burst of probes before a session, and repair symbols that nobody asked for."""

import math
from dataclasses import replace

import pytest
from test_cast_sender import LAYOUT, a_report, a_session, beacon_of, drain, hear

from imager.multicast.events import ReceiverProbed
from imager.multicast.repair import RepairRun
from imager.multicast.sender import SenderSession
from imager.wire.packets import Beacon, Join, Status
from imager.wire.session import Phase


def beacons_until_data(session: SenderSession) -> list[Beacon]:
    found = []
    for step in range(2000):
        burst = session.datagrams_to_send(step * 0.0001)
        if burst is not None:
            if burst.runs:
                return found
            found.append(beacon_of(burst))
    raise AssertionError("no data came")


def test_probes_go_before_the_first_data_and_each_receiver_that_was_there_tells_what_it_heard() -> None:
    session = a_session(3, begun=False, probes=32)
    for receiver in (0, 1):
        hear(session, Join(3), receiver=receiver)
    session.begin(0.0)
    probes = [beacon for beacon in beacons_until_data(session) if beacon.probe]
    assert len(probes) == 32
    assert {beacon.phase for beacon in probes} == {Phase.WAITING}
    hear(session, Join(3), receiver=2)  # late: the burst was over
    session.events()
    hear(session, Status(replace(a_report(), probes=30)))  # on its way since before the data
    for _ in range(2):
        hear(session, Status(replace(a_report(received=5), probes=32)), receiver=0)
        hear(session, Status(replace(a_report(received=5), probes=20)), receiver=1)
        hear(session, Status(a_report(received=5)), receiver=2)
    probed = [event for event in session.events() if isinstance(event, ReceiverProbed)]
    assert probed == [ReceiverProbed(0, 32, 32), ReceiverProbed(1, 20, 32)]
    assert probed[0].words == "heard all 32 probes"
    assert probed[1].words.startswith("heard 20 of 32 probes")


def test_nothing_is_probed_when_nobody_has_joined() -> None:
    session = a_session(1, begun=False, probes=32)
    session.begin(0.0)
    assert not any(beacon.probe for beacon in beacons_until_data(session))


def test_a_session_that_is_begun_again_while_it_probes_probes_once() -> None:
    session = a_session(1, begun=False, probes=32)
    hear(session, Join(3))
    session.begin(0.0)
    session.datagrams_to_send(0.0)
    session.begin(0.0)
    assert sum(beacon.probe for beacon in beacons_until_data(session)) == 31


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_a_share_of_repair_is_sent_unasked_for_each_block_once(share: float) -> None:
    session = a_session(1, fec_share=share)
    runs = [run for burst in drain(session, 0.0) for run in burst.runs if isinstance(run, RepairRun)]
    rows = [0] * LAYOUT.block_count
    for run in runs:
        assert run.first_row == rows[run.block]
        rows[run.block] += run.count
    assert rows == [math.ceil(share * 200)] * LAYOUT.block_count
