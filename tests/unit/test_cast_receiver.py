"""The receiving side: what it takes, hands out, asks for and when; what it says when the session is lost."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from imager.multicast.assembly import HELD, LACKING, Assembly
from imager.multicast.erasure import REPAIR_ROWS, load_code
from imager.multicast.events import (
    Accepted,
    ChunkAssembled,
    DoneAcknowledged,
    GroupSilent,
    ReceiverEvent,
    SessionLost,
)
from imager.multicast.layout import CastLayout
from imager.multicast.receiver import ReceiverSession, ReceiverSettings
from imager.wire.packets import (
    DATA_HEADER,
    FROM_SENDER,
    Ack,
    Answer,
    Beacon,
    Control,
    Done,
    Head,
    Join,
    Leave,
    Nack,
    Status,
    build_ack,
    build_beacon,
    build_beacon_head,
    build_head,
    first_byte_pair,
    parse_control,
    parse_head,
)
from imager.wire.seal import AesGcm, ByteArray, Payloads
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, SYMBOL_BYTES, Holdup, Kind, Phase, Reject

SESSION, RECEIVER = 77, 3
CHECK = "check IGMP snooping and the querier of the switches between"
CAST_KEY, CONTROL_KEY = bytes(range(32)), bytes(range(32, 64))
LAYOUT = CastLayout([250 * SYMBOL_BYTES - 100, 10 * SYMBOL_BYTES, 10 * SYMBOL_BYTES])
"""A chunk of two blocks of 125 symbols, the last one short, and two of one block of 10."""
DATA = np.random.default_rng(5).integers(0, 256, (270, SYMBOL_BYTES), np.uint8)
DATA[249, -100:] = 0


_sequences = itertools.count()
_counters = itertools.count()


def sealed(kind: Kind, numbers: Sequence[int], rows: Sequence[int], payloads: ByteArray, **options: Any) -> ByteArray:
    """Packets as the sender would send them; `sequence` of the first, else what comes next."""
    made = np.zeros((len(numbers), PACKET_BYTES), np.uint8)
    headers = made[:, :HEADER_BYTES].view(DATA_HEADER)[:, 0]
    headers["magic"], headers["kind"] = first_byte_pair(kind)
    headers["session"] = options.get("session", SESSION)
    headers["row"], headers["number"] = rows, numbers
    first = options.get("sequence")
    headers["sequence"] = [next(_sequences) if first is None else first + at for at in range(len(numbers))]
    AesGcm(options.get("key", CAST_KEY)).sealer(made).seal(0, Payloads(payloads), 0, len(payloads))
    return made


def packets(*numbers: int, **options: Any) -> ByteArray:
    """SOURCE packets of these symbols."""
    payloads = np.zeros((len(numbers), SYMBOL_BYTES), np.uint8)
    for payload, number in zip(payloads, numbers, strict=True):
        if number < 270:
            payload[:] = DATA[number]
    return sealed(Kind.SOURCE, numbers, [0] * len(numbers), payloads, **options)


def repairs(block: int, *rows: int, **options: Any) -> ByteArray:
    """REPAIR packets of a block."""
    payloads = np.zeros((len(rows), SYMBOL_BYTES), np.uint8)
    if block < LAYOUT.block_count:
        source = DATA[int(LAYOUT.block_first_symbol[block]) : int(LAYOUT.block_first_symbol[block + 1])]
        for payload, row in zip(payloads, rows, strict=True):
            if row < REPAIR_ROWS:
                load_code().encode(np.ascontiguousarray(source), row, payload.reshape(1, -1))
    return sealed(Kind.REPAIR, [block] * len(rows), rows, payloads, **options)


def a_beacon(phase: Phase, sequence: int = 0, frontier: int = 0) -> ByteArray:
    body = build_beacon(Beacon(phase, sequence, frontier, nack_interval_ms=10), SYMBOL_BYTES)
    data = AesGcm(CAST_KEY).seal(build_beacon_head(SESSION, next(_counters)), body)
    return np.frombuffer(data, np.uint8).reshape(1, PACKET_BYTES)


def an_ack(of: Kind, answer: Answer = Answer.ACCEPTED, receiver: int = RECEIVER, sequence: int = 0) -> bytes:
    head = Head(Kind.ACK, receiver, SESSION, FROM_SENDER + next(_counters))
    return AesGcm(CONTROL_KEY).seal(build_head(head), build_ack(Ack(of, answer, sequence)))


class Shell:
    """A session and what its process would do."""

    def __init__(self, slots: int = 4, sender_timeout_s: float = 5) -> None:
        self.memory = np.zeros((slots, 250 * SYMBOL_BYTES), np.uint8)
        settings = ReceiverSettings(SESSION, RECEIVER, CAST_KEY, CONTROL_KEY, sender_timeout_s)
        self.session = ReceiverSession(LAYOUT, settings, np.ones(3, np.bool_), self.memory, load_code(), 0.0)

    def hear(self, *batches: ByteArray, now: float = 0.0) -> None:
        for batch in batches:
            self.session.receive_datagrams(batch, AesGcm(CAST_KEY).opener(batch), now)

    def join(self, sequence: int, now: float = 0.0) -> None:
        """The sender answers: it has sent what is below this."""
        self.session.receive_datagram(an_ack(Kind.JOIN, sequence=sequence), now)
        assert self.events() == [Accepted()]

    def said(self, now: float) -> list[Control]:
        datagrams = self.session.datagrams_to_send(now)
        return [parse_control(parse_head(data).kind, AesGcm(CONTROL_KEY).open(data)) for data in datagrams]

    def asked(self, now: float) -> list[tuple[int, int, int]]:
        return [
            record for message in self.said(now) if isinstance(message, Nack) for record in message.records.tolist()
        ]

    def events(self) -> list[ReceiverEvent]:
        return self.session.events()

    def chunks(self) -> dict[int, bytes]:
        """Chunks handed out now, and their bytes; they are released as good."""
        found = {}
        for event in self.events():
            if isinstance(event, ChunkAssembled):
                found[event.chunk] = self.memory[event.slot, : event.length].tobytes()
                self.session.release(event.chunk, True, 0.0)
        return found


def chunk_bytes(chunk: int) -> bytes:
    first, end = LAYOUT.chunk_first_symbol[chunk : chunk + 2]
    return DATA[first:end].tobytes()[: int(LAYOUT.stored_lengths[chunk])]


class TestData:
    def test_a_chunk_is_handed_out_with_its_last_symbol_without_padding(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 249)))
        assert shell.chunks() == {}
        shell.hear(packets(249))
        assert shell.chunks() == {0: chunk_bytes(0)}

    def test_one_batch_may_hold_the_end_of_a_chunk_a_whole_one_and_the_start_of_a_third(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 200)), packets(*range(200, 265)))
        assert shell.chunks() == {0: chunk_bytes(0), 1: chunk_bytes(1)}

    def test_order_and_duplicates_do_not_matter(self) -> None:
        shell = Shell()
        numbers = np.random.default_rng(1).permutation(np.repeat(np.arange(270), 2)).tolist()
        for start in range(0, len(numbers), 37):
            shell.hear(packets(*numbers[start : start + 37]))
        assert shell.chunks() == {chunk: chunk_bytes(chunk) for chunk in range(3)}
        assert shell.session.statistics().duplicate_packets == 270

    def test_repair_symbols_stand_for_any_lost_ones(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(5, 125), *range(126, 250)), repairs(0, 55, 3, 9, 0), repairs(1, 7))
        assert shell.chunks() == {}
        shell.hear(repairs(0, 30))
        assert shell.chunks() == {0: chunk_bytes(0)}

    def test_repair_before_the_last_source_symbol_serves_too(self) -> None:
        shell = Shell()
        shell.hear(repairs(2, 1, 2), packets(*range(250, 258)))
        assert shell.chunks() == {1: chunk_bytes(1)}

    def test_source_symbols_that_come_again_beside_repair_in_hand_complete_a_block(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(250, 256)), repairs(2, 4), packets(253, 254, 255, 256, 257, 258))
        assert shell.chunks() == {1: chunk_bytes(1)}

    def test_junk_between_good_packets_is_counted_and_dropped(self) -> None:
        shell = Shell()
        junk = np.random.default_rng(2).integers(0, 256, (3, PACKET_BYTES), np.uint8)
        foreign = packets(251, 252, session=SESSION + 1)
        beyond = packets(270, 2**32 - 1, sequence=2**20)
        shell.hear(np.concatenate((junk, packets(*range(250, 255)), foreign, packets(*range(255, 260)), beyond)))
        shell.hear(repairs(4, 0), repairs(0, REPAIR_ROWS), beyond)
        assert shell.chunks() == {1: chunk_bytes(1)}
        rejected = shell.session.statistics().rejected
        assert rejected == {Reject.NOT_OURS: 5, Reject.OUT_OF_RANGE: 6}

    def test_symbols_without_a_free_slot_are_dropped_and_asked_for_when_there_is_one(self) -> None:
        shell = Shell(slots=1)
        shell.hear(packets(*range(0, 10)), packets(*range(250, 270)), a_beacon(Phase.REPAIRING, 30, 4))
        assert shell.session.statistics().dropped_packets == 20
        assert [block for block, _, _ in shell.asked(0.02)] == [0, 1]
        shell.hear(packets(*range(10, 250)))
        assert shell.chunks() == {0: chunk_bytes(0)}
        assert shell.asked(1.0) == [(2, 10, 0)]

    def test_what_holds_it_up_is_told_while_its_memory_is_full(self) -> None:
        shell = Shell(slots=4)
        shell.session.held_up(Holdup.DISK)
        shell.hear(packets(*range(0, 10)), packets(*range(250, 260)))
        assert (shell.session.report().free_slots, shell.session.report().holdup) == (2, Holdup.NONE)
        shell.hear(packets(*range(260, 270)))
        assert (shell.session.report().free_slots, shell.session.report().holdup) == (1, Holdup.DISK)

    def test_what_begins_or_ceases_to_hold_it_up_is_told_soon(self) -> None:
        shell = Shell(slots=1)
        shell.session.receive_datagram(an_ack(Kind.JOIN), 0.0)
        shell.hear(packets(*range(0, 10)))

        def statuses(first: float, end: float) -> list[tuple[float, Holdup]]:
            times = np.arange(first, end, 0.01).round(2).tolist()
            return [(t, m.report.holdup) for t in times for m in shell.said(t) if isinstance(m, Status)]

        last, _ = statuses(0, 6)[-1]
        shell.session.held_up(Holdup.DISK)
        assert statuses(last + 0.02, last + 0.05) == [(round(last + 0.02, 2), Holdup.DISK)]
        shell.session.held_up(Holdup.NONE)
        assert statuses(last + 0.05, last + 0.08) == [(round(last + 0.05, 2), Holdup.NONE)]

    def test_packets_that_overran_the_socket_are_the_processors_fault(self) -> None:
        shell = Shell(slots=1)
        shell.session.held_up(Holdup.DISK)
        shell.hear(packets(*range(0, 10)))
        shell.session.falls_behind = True
        assert shell.session.report().holdup is Holdup.PROCESSOR
        shell.session.falls_behind = False
        assert shell.session.report().holdup is Holdup.DISK

    def test_a_chunk_with_a_wrong_hash_is_asked_for_as_a_whole(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(250, 260)), a_beacon(Phase.REPAIRING, 10, 4))
        (event,) = (event for event in shell.events() if isinstance(event, ChunkAssembled))
        shell.session.release(event.chunk, False, 0.0)
        assert (2, 10, 0) in shell.asked(0.02)
        shell.hear(packets(*range(250, 260)))
        assert shell.chunks() == {1: chunk_bytes(1)}

    def test_a_chunk_that_was_not_handed_out_cannot_be_released(self) -> None:
        shell = Shell()
        with pytest.raises(ValueError, match="not handed out"):
            shell.session.release(1, True, 0.0)


class TestAsking:
    def test_a_block_is_asked_for_when_the_sender_has_passed_it_and_not_before(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 100)))
        assert shell.asked(0.02) == []
        shell.hear(packets(*range(101, 130)))
        assert shell.asked(0.2) == [(0, 1, 0)]

    def test_what_was_asked_for_is_asked_again_later_and_more_seldom(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 99), *range(100, 130)))
        times = [t for t in np.arange(0, 2, 0.01).tolist() if shell.asked(t)]
        gaps = np.diff(times)
        assert gaps[0] >= 0.05
        assert all(later >= earlier - 0.05 for earlier, later in itertools.pairwise(gaps))
        assert gaps[-1] >= 0.39

    def test_repair_in_hand_is_not_asked_for_again(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 90), *range(100, 130)), repairs(0, 0, 2))
        assert shell.asked(0.02) == [(0, 8, 3)]

    def test_whole_chunks_are_asked_for_only_after_the_first_pass(self) -> None:
        shell = Shell()
        shell.hear(packets(260, 261, sequence=260))
        assert shell.asked(0.1) == []
        shell.hear(a_beacon(Phase.REPAIRING, 270, 4))
        assert shell.asked(0.2) == [(0, 125, 0), (1, 125, 0), (2, 10, 0), (3, 8, 0)]

    def test_the_report_counts_what_sequence_numbers_show_to_be_lost(self) -> None:
        shell = Shell()
        shell.join(2**32 - 10)
        shell.hear(packets(0, 1, 2, sequence=2**32 - 10), packets(5, 6, sequence=2**32 - 5))
        report = shell.session.report()
        assert (report.received, report.lost, report.heard) == (5, 2, 2**32 - 4)


class TestConversation:
    def test_join_is_repeated_until_it_is_answered(self) -> None:
        shell = Shell()
        assert [shell.said(t) for t in (0.0, 0.05, 0.1)] == [
            [Join(3)],
            [],
            [Join(3)],
        ]
        shell.session.receive_datagram(an_ack(Kind.JOIN), 0.2)
        assert shell.events() == [Accepted()]
        assert not any(isinstance(message, Join) for message in shell.said(2.0))

    def test_a_status_is_sent_twice_a_second(self) -> None:
        shell = Shell()
        shell.session.receive_datagram(an_ack(Kind.JOIN), 0.0)
        times = [t for t in np.arange(0, 3, 0.05).tolist() if any(isinstance(m, Status) for m in shell.said(t))]
        assert len(times) == 5

    def test_done_is_repeated_until_it_is_acknowledged(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 270)))
        shell.chunks()
        assert shell.session.all_held
        shell.session.finish(1.0)
        assert isinstance(shell.said(1.0)[0], Done)
        assert shell.said(1.01) == []
        assert isinstance(shell.said(1.02)[0], Done)
        shell.session.receive_datagram(an_ack(Kind.DONE), 1.03)
        assert shell.events() == [DoneAcknowledged()]
        assert shell.session.closed

    def test_done_without_an_answer_comes_to_an_end(self) -> None:
        shell = Shell()
        shell.session.finish(0.0)
        times = [t for t in np.arange(0, 20, 0.01).tolist() if shell.said(t)]
        assert len(times) == 8
        assert shell.events() == [DoneAcknowledged()]

    @pytest.mark.parametrize(
        ("answers_s", "heard_s", "lost_s", "reason"),
        [
            ((), None, 60.0, "no answer from the sender for 60 s"),
            ((0, 99), None, 8.0, f"the sender answers, but none of its multicast packets arrived for 8 s: {CHECK}"),
            ((0, 3), None, 63.0, "nothing more came from the sender for 60 s"),
            ((0, 1), 5.0, 65.0, "nothing more came from the sender for 60 s"),
            (
                (0, 99),
                5.0,
                14.5,
                f"the sender answers, but none of its multicast packets arrived any more for 8 s: {CHECK}",
            ),
            (
                (40, 99),
                5.0,
                49.0,
                f"the sender answers, but none of its multicast packets arrived any more for 8 s: {CHECK}",
            ),
        ],
        ids=["nobody", "no multicast", "gone unheard", "gone", "multicast gone", "multicast gone after an outage"],
    )
    def test_a_lost_session_says_what_was_seen_of_it(
        self, answers_s: tuple[float, ...], heard_s: float | None, lost_s: float, reason: str
    ) -> None:
        """A sender that answers JOINs between these two times; its group is heard until `heard_s`."""
        shell = Shell(sender_timeout_s=60)
        unheard = "multicast" in reason
        lost: list[tuple[float, ReceiverEvent]] = []
        for now in np.arange(0, 70, 0.1).round(1).tolist():
            if heard_s is not None and now <= heard_s:
                shell.hear(a_beacon(Phase.SENDING), now=now)
            shell.session.handle_timeout(now)
            said = shell.said(now)
            lost += [(now, event) for event in shell.events() if isinstance(event, SessionLost)]
            if lost:
                break
            if answers_s and answers_s[0] <= now <= answers_s[1] and Join(3) in said:
                shell.session.receive_datagram(an_ack(Kind.JOIN), now)
        ((at, event),) = lost
        assert at == pytest.approx(lost_s, abs=1.1 if heard_s else 0.11)
        assert event == SessionLost(reason, unheard)
        assert said == ([] if unheard else [Leave(reason)])  # who goes on by unicast is not gone
        assert shell.said(70.1) == []
        assert shell.session.next_timeout() is None

    def test_a_receiver_that_holds_all_is_not_woken_by_a_group_that_fell_silent(self) -> None:
        shell = Shell()
        shell.session.receive_datagram(an_ack(Kind.JOIN), 0.0)
        shell.hear(packets(*range(0, 270)))
        shell.chunks()
        for now in np.arange(0, 3, 0.1).tolist():
            shell.session.handle_timeout(now)
            shell.said(now)
            due = shell.session.next_timeout()
            assert due is not None and due > now

    def test_a_silent_group_is_joined_again_while_it_stays_silent(self) -> None:
        shell = Shell(sender_timeout_s=60)
        shell.hear(packets(0), now=0.0)
        told = []
        for now in np.arange(0, 6, 0.1).tolist():
            shell.session.handle_timeout(now)
            if GroupSilent() in shell.events():
                told.append(now)
            if now > 4.5:
                shell.hear(a_beacon(Phase.SENDING), now=now)
        assert told == pytest.approx([1.5, 3.0, 4.5], abs=0.11)

    def test_the_end_of_the_session_before_all_is_held_is_a_loss(self) -> None:
        shell = Shell()
        shell.hear(packets(*range(0, 260)), a_beacon(Phase.ENDED, 260, 4))
        assert SessionLost("the sender ended the session before all was received") in shell.events()

    def test_a_receiver_that_was_given_up_hears_of_it(self) -> None:
        shell = Shell()
        shell.session.receive_datagram(an_ack(Kind.STATUS, Answer.FAILED_BEFORE), 0.0)
        (event,) = shell.events()
        assert isinstance(event, SessionLost)
        assert "gave this receiver up" in event.reason

    def test_unicast_datagrams_of_another_session_are_counted_and_dropped(self) -> None:
        shell = Shell()
        shell.session.receive_datagram(an_ack(Kind.JOIN, receiver=RECEIVER + 1), 0.0)
        shell.session.receive_datagram(b"\xca", 0.0)
        assert shell.events() == []
        assert shell.session.statistics().rejected == {Reject.OTHER_SESSION: 1, Reject.NOT_OURS: 1}


class TestAssembly:
    def test_chunks_that_are_not_wanted_take_no_slot(self) -> None:
        memory = np.zeros((1, 250 * SYMBOL_BYTES), np.uint8)
        assembly = Assembly(LAYOUT, np.array([False, True, False]), memory, load_code())
        assembly.place_source(0, AesGcm(CAST_KEY).opener(packets(*range(260))), 0, 260)
        assert [done.chunk for done in assembly.assembled()] == [1]
        assembly.release(1, True)
        assert assembly.state[1] == HELD
        assert assembly.held_count == assembly.to_hold_count == 1
        assert not (assembly.state == LACKING).any()
