"""The burst of probes before a session, and repair symbols that nobody asked for."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_cast_sender import LAYOUT, a_report, a_session, beacon_of, drain, hear

from imager.multicast.erasure import load_code
from imager.multicast.events import ReceiverProbed, ReceiverProgress
from imager.multicast.layout import CastLayout
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.multicast.repair import RepairRun
from imager.multicast.sender import SenderSession
from imager.wire.packets import (
    FROM_SENDER,
    Ack,
    Answer,
    Beacon,
    Head,
    Join,
    Status,
    build_ack,
    build_beacon,
    build_beacon_head,
    build_head,
)
from imager.wire.seal import AesGcm
from imager.wire.session import PACKET_BYTES, Kind, Phase


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


def test_sender_knows_from_any_report_whether_its_packets_reach_the_receiver() -> None:
    session = a_session(3, begun=False)
    for report in (a_report(), replace(a_report(), beacons=1), a_report(received=5)):
        hear(session, Status(report))
    assert [event.hears for event in session.events() if isinstance(event, ReceiverProgress)] == [False, True, True]


@pytest.mark.parametrize(("packet_bytes", "within_s"), [(8972, 0.02), (PACKET_BYTES, 1.0)])
def test_receiver_tells_of_the_first_long_beacon_at_once_and_of_others_in_its_time(
    packet_bytes: int, within_s: float
) -> None:
    layout = CastLayout([1000], packet_bytes)
    keys = bytes(32), bytes(range(32))
    memory = np.zeros((1, layout.symbol_bytes), np.uint8)
    session = ReceiverSession(layout, ReceiverSettings(7, 1, *keys), np.ones(1, np.bool_), memory, load_code(), 0.0)
    session.datagrams_to_send(0.0)
    head = Head(Kind.ACK, 1, 7, FROM_SENDER)
    session.receive_datagram(AesGcm(keys[1]).seal(build_head(head), build_ack(Ack(Kind.JOIN, Answer.ACCEPTED, 0))), 0.0)
    body = build_beacon(Beacon(Phase.WAITING, 0, 0, nack_interval_ms=10), layout.symbol_bytes)
    beacon = np.frombuffer(AesGcm(keys[0]).seal(build_beacon_head(7, 0), body), np.uint8).reshape(1, packet_bytes)
    session.receive_datagrams(beacon, session.cast_cipher.opener(beacon), 0.01)
    told_s = [step / 100 for step in range(1, 101) if any(session.datagrams_to_send(step / 100))]
    assert (told_s[0] <= 0.02) == (within_s <= 0.02) and told_s[0] <= within_s
    assert session.report().beacons == 1


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
