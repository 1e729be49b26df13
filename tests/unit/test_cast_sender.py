"""The sending side: merging of NACKs, order of what is sent, who counts, what is refused, how fast."""

import itertools

import numpy as np
import pytest

from imager.errors import CastError
from imager.multicast.erasure import REPAIR_ROWS
from imager.multicast.events import ReceiverDone, ReceiverFailed, ReceiverJoined, SessionEnded
from imager.multicast.layout import CastLayout
from imager.multicast.pace import FRAME_BYTES, MAX_BURST, Pacer, burst_packets
from imager.multicast.repair import WHOLE_LACKING, RepairQueue, RepairRun, SourceRun
from imager.multicast.sender import Burst, SenderSession, SenderSettings
from imager.wire.packets import (
    DATA_HEADER,
    FROM_SENDER,
    NACK_RECORD,
    Ack,
    Answer,
    Beacon,
    Control,
    Done,
    Head,
    Join,
    Leave,
    Nack,
    Report,
    Status,
    build_control,
    build_head,
    kind_of,
    parse_ack,
    parse_beacon,
)
from imager.wire.seal import AesGcm
from imager.wire.session import HEADER_BYTES, SYMBOL_BYTES, Holdup, Kind, Phase, Reject

SESSION = 77
CAST_KEY = bytes(range(32))
ADDRESS = ("10.0.0.9", 999)
GIGABIT = 1e9
LAYOUT = CastLayout([400 * SYMBOL_BYTES] * 3)
"""Three chunks of two blocks of 200 symbols."""


_counters = itertools.count()


def a_report(heard: int = 0, received: int = 0, lost: int = 0, dropped: int = 0) -> Report:
    return Report(heard, received, lost, dropped, 0, 0, slots=64, free_slots=64, holdup=Holdup.NONE)


def a_nack(*rows: tuple[int, int, int], heard: int = 0) -> Nack:
    return Nack(a_report(heard), np.array(list(rows), NACK_RECORD))


def control_key(receiver: int) -> bytes:
    return bytes([receiver]) * 32


def said(message: Control, receiver: int = 0, counter: int | None = None, session: int = SESSION) -> bytes:
    """A datagram of a receiver."""
    head = Head(kind_of(message), receiver, session, next(_counters) if counter is None else counter)
    return AesGcm(control_key(receiver)).seal(build_head(head), build_control(message))


def answers(session: SenderSession, receiver: int = 0) -> list[Ack]:
    """What the sender answered since the last call, all to one receiver."""
    return [parse_ack(AesGcm(control_key(receiver)).open(data)) for data, _ in session.replies()]


def beacon_of(burst: Burst | None) -> Beacon:
    assert burst is not None
    return parse_beacon(AesGcm(CAST_KEY).open(burst.packets[0].tobytes()))


def records(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(rows), NACK_RECORD)


def a_session(receivers: int = 1, begun: bool = True, **settings: float) -> SenderSession:
    settings = {"start_bps": GIGABIT, **settings}  # whole bursts from the first on
    session = SenderSession(LAYOUT, SenderSettings(SESSION, CAST_KEY, **settings), np.ones(3, np.bool_), 0.0)
    for receiver in range(receivers):
        session.admit(receiver, control_key(receiver), None, 0.0)
    if begun:
        session.begin(0.0)
    return session


def hear(session: SenderSession, message: Control, now: float = 0.0, receiver: int = 0) -> None:
    session.receive_datagram(said(message, receiver), ADDRESS, now)


def drain(session: SenderSession, now: float, limit: int = 200) -> list[Burst]:
    """The data bursts that leave until nothing is left or `limit`; the clock is moved so that no rate holds them up."""
    bursts: list[Burst] = []
    for step in range(limit):
        burst = session.datagrams_to_send(now + step * 0.001)
        if burst is not None and burst.runs:
            bursts.append(Burst(burst.packets.copy(), burst.runs, burst.sealer))
        elif burst is None and session.phase is Phase.REPAIRING:
            break
    return bursts


class TestRepairQueue:
    def test_it_sends_the_most_that_any_receiver_lacks_and_not_the_sum(self) -> None:
        queue = RepairQueue(LAYOUT)
        for lacking in (2, 5, 3):
            queue.ask(records((1, lacking, 0)), heard=10, frontier=6, now=0)
        assert queue.take_rows(44, 100) == [RepairRun(1, 0, 5)]
        assert queue.row_count == 0

    def test_it_does_not_answer_again_while_the_answer_is_under_way(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((1, 2, 0)), heard=10, frontier=6, now=0)
        queue.take_rows(44, 100)
        queue.ask(records((1, 2, 0)), heard=100, frontier=6, now=0)
        assert queue.row_count == 0

    def test_what_was_lost_of_the_answer_is_sent_as_new_rows(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((1, 2, 0)), heard=10, frontier=6, now=0)
        queue.take_rows(44, 100)
        queue.ask(records((1, 1, 2)), heard=101, frontier=6, now=0)
        assert queue.take_rows(44, 102) == [RepairRun(1, 2, 1)]

    def test_a_receiver_that_needs_more_than_another_got_gets_the_difference(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((1, 2, 0)), heard=10, frontier=6, now=0)
        queue.take_rows(44, 100)
        queue.ask(records((1, 3, 0)), heard=50, frontier=6, now=0)
        assert queue.take_rows(44, 102) == [RepairRun(1, 2, 1)]

    def test_rows_of_several_blocks_share_a_burst(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((0, 3, 0), (4, 30, 0), (5, 30, 0)), heard=1, frontier=6, now=0)
        assert queue.take_rows(44, 9) == [RepairRun(0, 0, 3), RepairRun(4, 0, 30), RepairRun(5, 0, 11)]
        assert queue.take_rows(44, 53) == [RepairRun(5, 11, 19)]

    @pytest.mark.parametrize("lacking", [WHOLE_LACKING + 1, 200])
    def test_a_block_that_lacks_much_is_sent_again_as_it_is(self, lacking: int) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((2, lacking, 0)), heard=1, frontier=6, now=0)
        assert queue.row_count == 0
        assert queue.take_whole(150, 10) == [SourceRun(400, 150)]
        assert queue.take_whole(150, 160) == [SourceRun(550, 50)]
        assert queue.whole_count == 0

    def test_a_block_whose_rows_are_used_up_is_sent_again_as_it_is(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((2, WHOLE_LACKING, 0)), heard=1, frontier=6, now=0)
        queue.take_rows(44, 10)
        queue.ask(records((2, 30, WHOLE_LACKING)), heard=100, frontier=6, now=0)
        assert queue.row_count == 0
        assert queue.whole_count == 1

    def test_a_whole_block_is_not_sent_again_for_who_asked_before_it_left(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((2, 200, 0)), heard=1, frontier=6, now=0)
        queue.take_whole(200, 10)
        queue.ask(records((2, 200, 0)), heard=150, frontier=6, now=0)
        assert queue.whole_count == 0
        queue.ask(records((2, 200, 0)), heard=210, frontier=6, now=0)
        assert queue.whole_count == 1

    def test_a_block_that_is_sent_again_and_again_begins_everywhere(self) -> None:
        """A full buffer on the way lets only the first of a row of packets pass."""
        queue, sequence, passed = RepairQueue(LAYOUT), 10, set[int]()
        for _ in range(20):
            queue.ask(records((0, 200, 0)), heard=sequence, frontier=6, now=0)
            first = queue.take_whole(20, sequence)
            while queue.whole_count:
                queue.take_whole(20, sequence)
            sequence += 300
            passed.update(number for run in first for number in range(run.first, run.first + run.count))
        assert passed == set(range(200))

    def test_blocks_that_were_not_sent_yet_are_left_alone(self) -> None:
        queue = RepairQueue(LAYOUT)
        assert queue.ask(records((3, 2, 0)), heard=1, frontier=3, now=0) == 0
        assert queue.row_count == queue.whole_count == 0

    def test_records_of_nonsense_are_counted_and_do_nothing(self) -> None:
        queue = RepairQueue(LAYOUT)
        nonsense = records((6, 1, 0), (2**32 - 1, 1, 0), (0, 0, 0), (0, 201, 0), (0, 1, REPAIR_ROWS + 1))
        assert queue.ask(nonsense, heard=1, frontier=6, now=0) == 5
        assert queue.row_count == queue.whole_count == 0

    def test_a_block_named_twice_counts_once(self) -> None:
        queue = RepairQueue(LAYOUT)
        queue.ask(records((1, 4, 0), (1, 2, 0), (1, 4, 0)), heard=1, frontier=6, now=0)
        assert queue.row_count == 4
        assert queue.take_rows(44, 2) == [RepairRun(1, 0, 4)]
        assert queue.row_count == 0

    def test_a_session_without_blocks_takes_any_nack(self) -> None:
        assert RepairQueue(CastLayout([])).ask(records((0, 1, 0)), heard=1, frontier=0, now=0) == 1


class TestOrder:
    def test_the_first_pass_sends_every_planned_symbol_once_in_order(self) -> None:
        session = a_session()
        numbers = [
            number
            for burst in drain(session, 0.0)
            for number in burst.packets[:, :HEADER_BYTES].copy().view(DATA_HEADER)["number"].ravel().tolist()
        ]
        assert numbers == list(range(1200))

    def test_sequence_numbers_have_no_gap_over_all_kinds(self) -> None:
        session = a_session()
        session.datagrams_to_send(0.0)
        sequences: list[int] = []
        for step in range(60):
            burst = session.datagrams_to_send(0.001 * step)
            if burst is not None and burst.runs:
                sequences += burst.packets[:, :HEADER_BYTES].copy().view(DATA_HEADER)["sequence"].ravel().tolist()
                hear(session, a_nack((0, 3, 0), heard=sequences[-1]), 0.001 * step)
        assert sequences == list(range(len(sequences)))
        assert len(sequences) > 1200

    def test_repair_and_new_data_take_turns(self) -> None:
        session = a_session(receivers=2)
        for step in range(6):
            session.datagrams_to_send(step * 0.001)
        hear(session, a_nack((0, 40, 0), heard=200), 0.006)
        kinds = []
        for step in range(5):
            burst = session.datagrams_to_send(0.020 + step * 0.001)
            assert burst is not None
            kinds.append({type(run) for run in burst.runs})
        assert kinds[0] == set()  # the beacon for the one that has joined by its NACK
        assert kinds[1:] == [{RepairRun}, {SourceRun}, {SourceRun}, {SourceRun}]

    def test_whole_blocks_wait_for_the_end_of_the_first_pass(self) -> None:
        session = a_session()
        for step in range(8):
            session.datagrams_to_send(step * 0.001)
        hear(session, a_nack((0, 200, 0), heard=300), 0.008)
        runs = [run for burst in drain(session, 0.02) for run in burst.runs]
        again = [run for run in runs if isinstance(run, SourceRun) and run.first < 200]
        assert runs[-len(again) :] == again
        assert sum(run.count for run in again) == 200

    def test_chunks_that_nobody_wants_are_not_sent_until_somebody_joins_who_does(self) -> None:
        session = SenderSession(LAYOUT, SenderSettings(SESSION, CAST_KEY), np.array([True, False, False]), 0.0)
        session.admit(0, control_key(0), np.array([True, False, False]), 0.0)
        session.begin(0.0)
        session.datagrams_to_send(0.0)
        session.datagrams_to_send(0.001)
        session.admit(1, control_key(1), np.array([False, False, True]), 0.002)
        symbols = [run for burst in drain(session, 0.01) for run in burst.runs if isinstance(run, SourceRun)]
        assert min(run.first for run in symbols if run.first >= 400) == 800
        assert sum(run.count for run in symbols if run.first >= 400) == 400

    def test_a_beacon_tells_the_end_of_the_first_pass_at_once(self) -> None:
        session = a_session()
        now = 0.0
        while session.phase is Phase.SENDING:
            now += 0.001
            burst = session.datagrams_to_send(now)
        assert burst is None or not burst.runs
        beacon = beacon_of(burst or session.datagrams_to_send(now))
        assert (beacon.phase, beacon.sequence, beacon.frontier) == (Phase.REPAIRING, 1200, 6)


class TestReceivers:
    def test_a_join_is_acknowledged_and_told_once(self) -> None:
        session = a_session(begun=False)
        for _ in range(2):
            hear(session, Join(3))
        assert answers(session) == [Ack(Kind.JOIN, Answer.ACCEPTED, 0)] * 2
        assert session.events() == [ReceiverJoined(0, "10.0.0.9")]

    def test_a_receiver_whose_join_was_lost_has_joined_by_its_first_nack(self) -> None:
        session = a_session()
        hear(session, a_nack((0, 1, 0)))
        assert ReceiverJoined(0, "10.0.0.9") in session.events()

    def test_an_unknown_receiver_is_not_answered_and_changes_nothing(self) -> None:
        session = a_session()
        session.events()
        hear(session, Join(3), receiver=5)
        assert session.replies() == [] and session.events() == []
        assert session.statistics(0.0).rejected == {Reject.UNKNOWN_RECEIVER: 1}

    def test_the_session_ends_when_the_last_receiver_is_done(self) -> None:
        session = a_session(receivers=2)
        hear(session, Done(a_report()))
        assert session.phase is Phase.SENDING
        hear(session, Done(a_report()), receiver=1)
        assert session.phase is Phase.ENDED
        now = 1.0
        while not session.closed:
            now += 0.02
            burst = session.datagrams_to_send(now)
            assert burst is None or beacon_of(burst).phase is Phase.ENDED
        events = session.events()
        assert [event.receiver for event in events if isinstance(event, ReceiverDone)] == [0, 1]
        assert isinstance(events[-1], SessionEnded)

    def test_a_repeated_done_is_acknowledged_again_and_told_once(self) -> None:
        session = a_session(receivers=2)
        for _ in range(3):
            hear(session, Done(a_report()))
        assert answers(session) == [Ack(Kind.DONE, Answer.ACCEPTED, 0)] * 3
        assert sum(isinstance(event, ReceiverDone) for event in session.events()) == 1

    def test_nothing_but_beacons_is_sent_while_nobody_says_anything(self) -> None:
        """A network that is away, or a room without power: what would be sent meanwhile had to be sent again."""
        session = a_session(receivers=2, silence_timeout_s=100, max_bitrate_bps=10e6, start_bps=10e6)
        hear(session, Join(3), 0.0)
        sent_at: list[float] = []
        beacons: list[float] = []
        for now in np.arange(0, 32, 0.01).round(2).tolist():
            if (now <= 0.5 or now >= 30) and now * 10 % 1 == 0:
                hear(session, Status(a_report()), now, receiver=int(now * 10) % 2)
            burst = session.datagrams_to_send(now)
            if burst is not None:
                (sent_at if burst.runs else beacons).append(now)
            due = session.next_timeout()
            if 2 < now < 30:
                assert due is not None and due > now, "it would not sleep"
        away = [now for now in sent_at if now < 30]
        assert away and max(away) <= 0.5 + 0.76
        assert min(now for now in sent_at if now > 2) == 30
        assert sum(2 < now < 30 for now in beacons) == pytest.approx(28 * 4, abs=5)

    def test_a_silent_receiver_is_failed_at_the_stated_time_and_not_before(self) -> None:
        session = a_session(receivers=2, silence_timeout_s=5)
        hear(session, Status(a_report()), 4.9, receiver=1)
        session.handle_timeout(4.99)
        assert not any(isinstance(event, ReceiverFailed) for event in session.events())
        session.handle_timeout(5.0)
        assert session.events() == [ReceiverFailed(0, "silent for 5 s")]
        session.handle_timeout(9.9)
        assert session.events()[0] == ReceiverFailed(1, "silent for 5 s")
        assert session.phase is Phase.ENDED

    def test_waiting_for_others_is_not_silence(self) -> None:
        session = a_session(begun=False, silence_timeout_s=5)
        session.handle_timeout(100.0)
        session.begin(100.0)
        session.handle_timeout(104.9)
        assert not any(isinstance(event, ReceiverFailed) for event in session.events())

    def test_a_failed_receiver_is_told_so_and_comes_again_under_another_number(self) -> None:
        session = a_session(receivers=2)
        hear(session, Join(3))
        session.remove(0, "operator", 0.0)
        hear(session, Status(a_report()))
        assert answers(session) == [Ack(Kind.JOIN, Answer.ACCEPTED, 0), Ack(Kind.STATUS, Answer.FAILED_BEFORE, 0)]
        with pytest.raises(ValueError, match="receiver 0 was admitted before"):
            session.admit(0, control_key(0), None, 1.0)
        session.admit(2, control_key(2), None, 1.0)
        hear(session, Join(3), 1.0, receiver=2)
        assert answers(session, 2) == [Ack(Kind.JOIN, Answer.ACCEPTED, 0)]

    def test_a_held_session_ends_only_when_it_may(self) -> None:
        session = a_session(is_held=True)
        hear(session, Done(a_report()))
        assert session.phase is Phase.SENDING
        session.let_end(1.0)
        assert session.phase is Phase.ENDED

    def test_a_receiver_that_leaves_is_failed_with_its_own_reason(self) -> None:
        session = a_session(receivers=2)
        hear(session, Leave("disk full"), receiver=1)
        assert ReceiverFailed(1, "disk full") in session.events()

    def test_who_is_admitted_after_the_end_is_failed_at_once(self) -> None:
        session = a_session()
        session.stop(1.0)
        session.events()
        session.admit(1, control_key(1), None, 1.0)
        assert session.events() == [ReceiverFailed(1, "the session has ended")]

    def test_datagrams_that_are_not_of_this_session_are_counted_and_dropped(self) -> None:
        session = a_session()
        session.events()
        session.receive_datagram(b"junk", ADDRESS, 0.0)
        session.receive_datagram(said(a_nack((0, 1, 0)), session=SESSION + 1), ADDRESS, 0.0)
        hear(session, a_nack((99, 1, 0)))
        assert session.statistics(0.0).rejected == {
            Reject.NOT_OURS: 1,
            Reject.OTHER_SESSION: 1,
            Reject.OUT_OF_RANGE: 1,
        }


class TestStrangers:
    """What others than the receivers send changes nothing but a counter."""

    def test_a_repeated_datagram_is_not_taken_twice(self) -> None:
        session = a_session()
        datagram = said(Join(3))
        for _ in range(3):
            session.receive_datagram(datagram, ADDRESS, 0.0)
        assert len(session.replies()) == 1
        assert session.statistics(0.0).rejected == {Reject.REPEATED: 2}

    def test_an_older_datagram_that_was_held_back_is_not_taken(self) -> None:
        session = a_session()
        early, late = said(Done(a_report())), said(Join(3))
        session.receive_datagram(late, ADDRESS, 0.0)
        session.receive_datagram(early, ADDRESS, 0.0)
        assert session.phase is Phase.SENDING
        assert session.statistics(0.0).rejected == {Reject.REPEATED: 1}

    @pytest.mark.parametrize("bit", range(0, 8 * len(said(Done(a_report()))), 7))
    def test_a_datagram_with_one_bit_wrong_is_not_taken(self, bit: int) -> None:
        session = a_session()
        session.events()
        datagram = bytearray(said(Done(a_report())))
        datagram[bit // 8] ^= 1 << bit % 8
        session.receive_datagram(bytes(datagram), ADDRESS, 0.0)
        assert session.replies() == [] and session.events() == []
        assert sum(session.statistics(0.0).rejected.values()) == 1

    def test_a_datagram_cut_or_lengthened_anywhere_is_not_taken(self) -> None:
        session = a_session()
        session.events()
        datagram = said(Done(a_report()))
        for length in range(len(datagram)):
            session.receive_datagram(datagram[:length], ADDRESS, 0.0)
        session.receive_datagram(datagram + b"x", ADDRESS, 0.0)
        assert session.replies() == [] and session.events() == []
        assert sum(session.statistics(0.0).rejected.values()) == len(datagram) + 1

    def test_who_sends_on_what_a_receiver_said_before_it_arrives_gains_its_answer_and_nothing_else(self) -> None:
        session = a_session()
        thief = ("10.0.0.66", 6)
        first, again = said(Join(3)), said(Join(3))
        session.receive_datagram(first, thief, 0.0)
        session.receive_datagram(first, ADDRESS, 0.0)
        session.receive_datagram(again, ADDRESS, 0.1)
        assert [target for _, target in session.replies()] == [thief, ADDRESS]
        hear(session, Done(a_report()), 0.2)
        assert [target for _, target in session.replies()] == [ADDRESS]
        assert session.phase is Phase.ENDED
        assert session.statistics(0.0).rejected == {Reject.REPEATED: 1}

    def test_the_answer_to_a_join_tells_how_far_the_sequence_went(self) -> None:
        session = a_session()
        sent = sum(len(burst.packets) for burst in drain(session, 0.01, 5))
        hear(session, Join(3))
        assert sent > 0
        assert answers(session) == [Ack(Kind.JOIN, Answer.ACCEPTED, sent)]

    def test_what_the_sender_said_is_not_taken_from_a_receiver(self) -> None:
        session = a_session()
        hear(session, Join(3))
        (back, _) = session.replies()[0]
        session.receive_datagram(back, ADDRESS, 0.0)
        head = Head(Kind.DONE, 0, SESSION, FROM_SENDER)
        forged = AesGcm(control_key(0)).seal(build_head(head), build_control(Done(a_report())))
        session.receive_datagram(forged, ADDRESS, 0.0)
        assert session.phase is Phase.SENDING
        assert session.statistics(0.0).rejected == {Reject.REPEATED: 2}

    def test_a_receivers_key_does_not_speak_for_another(self) -> None:
        session = a_session(receivers=2)
        head = build_head(Head(Kind.DONE, 1, SESSION, 0))
        session.receive_datagram(AesGcm(control_key(0)).seal(head, build_control(Done(a_report()))), ADDRESS, 0.0)
        assert session.statistics(0.0).rejected == {Reject.FORGED: 1}

    def test_who_has_the_key_and_talks_nonsense_is_counted(self) -> None:
        session = a_session()
        for kind in Kind:
            head = build_head(Head(kind, 0, SESSION, next(_counters)))
            session.receive_datagram(AesGcm(control_key(0)).seal(head, b"nonsense"), ADDRESS, 0.0)
        assert session.statistics(0.0).rejected == {Reject.NOT_OURS: len(Kind)}


def test_a_cast_whose_sequence_would_come_round_again_ends_with_an_error() -> None:
    session = a_session()
    session._sequence = 2**32 - 4 * MAX_BURST - 1
    assert session.datagrams_to_send(0.0) is not None
    session._sequence = 2**32 - 4 * MAX_BURST
    with pytest.raises(CastError, match="start it again"):
        session.datagrams_to_send(0.001)


class TestRate:
    def test_the_pacer_spaces_bursts_by_the_rate(self) -> None:
        pacer = Pacer()
        pacer.sent(10, FRAME_BYTES * 8 * 1000.0, now=100.0)
        assert pacer.due() == pytest.approx(100.0 + 0.01 - 0.005)

    def test_bursts_shrink_with_the_rate(self) -> None:
        assert burst_packets(0) == burst_packets(1e10) == 4 * MAX_BURST
        assert burst_packets(2.3e9) == 2 * MAX_BURST
        assert burst_packets(2.0e9) == burst_packets(6e8) == MAX_BURST
        assert burst_packets(1e8) == 8
        assert burst_packets(1e6) == 1


class TestCrowds:
    def test_the_nack_interval_grows_with_the_receivers_that_are_waited_for(self) -> None:
        def interval_ms(receivers: int) -> int:
            session = a_session(receivers=receivers)
            burst = session.datagrams_to_send(0.0)
            assert burst is not None
            return beacon_of(burst).nack_interval_ms

        assert interval_ms(1) == interval_ms(20) == 10
        assert interval_ms(200) == 32  # at 1 Gbit/s

    def test_what_every_block_needed_leaves_unasked_and_no_longer_when_they_do_not(self) -> None:
        queue = RepairQueue(CastLayout([200 * SYMBOL_BYTES] * 200))
        queue.ask(records(*((block, 5 + block % 3, 0) for block in range(40))), heard=1, frontier=100, now=0)
        queue.take_rows(1000, 2)
        queue.reckon(0, 40)
        assert queue.steady_share == pytest.approx(4.5 / 200)
        queue.volunteer(50, queue.steady_share)
        assert queue.take_rows(44, 5000) == [RepairRun(50, 0, 5)]
        for _ in range(5):
            queue.reckon(100, 140)  # nobody asked
        assert queue.steady_share == 0

    def test_a_lone_receiver_that_loses_now_and_then_is_sent_nothing_unasked(self) -> None:
        queue = RepairQueue(CastLayout([200 * SYMBOL_BYTES] * 200))
        queue.ask(records(*((block, 3, 0) for block in range(0, 40, 2))), heard=1, frontier=100, now=0)
        queue.reckon(0, 40)
        assert queue.steady_share == 0
