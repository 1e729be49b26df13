"""A receiver and what others than its sender send: nothing of it changes anything but a counter."""

import numpy as np
import pytest
from test_cast_receiver import Shell, a_beacon, an_ack, chunk_bytes, packets, repairs

from imager.multicast.assembly import LACKING
from imager.multicast.window import SequenceWindow
from imager.wire.packets import Answer, Nack
from imager.wire.seal import ByteArray
from imager.wire.session import HEADER_BYTES, PACKET_BYTES, Kind, Phase, Reject

WRONG_KEY = bytes(32)


def damaged(batch: ByteArray, *places: int) -> ByteArray:
    """A copy with one bit wrong in the packets at `places`, each somewhere else, behind their heads."""
    copy = batch.copy()
    for place in places:
        copy[place, HEADER_BYTES + 37 * (place + 1) % (PACKET_BYTES - HEADER_BYTES)] ^= 1
    return copy


def counted(shell: Shell) -> tuple[int, int, int, int]:
    """What its report says."""
    report = shell.session.report()
    return report.received, report.lost, report.dropped, report.free_slots


def test_forged_data_takes_no_slot_and_is_not_reported() -> None:
    shell = Shell(slots=1)
    before = counted(shell)
    shell.hear(packets(*range(0, 20), key=WRONG_KEY), repairs(0, 1, 2, key=WRONG_KEY))
    assert counted(shell) == before
    assert shell.session.statistics().rejected == {Reject.FORGED: 22}
    assert (shell.session._assembly.state == LACKING).all()


def test_forged_packets_never_overwrite_symbols_that_are_there() -> None:
    shell = Shell()
    shell.hear(packets(*range(0, 100)))
    shell.hear(packets(*range(0, 150), key=WRONG_KEY), damaged(packets(*range(0, 120)), *range(120)))
    shell.hear(packets(*range(100, 250)))
    assert shell.chunks() == {0: chunk_bytes(0)}


@pytest.mark.parametrize("wrong", [(0,), (4,), (9,), (0, 9), (3, 4, 5), tuple(range(0, 10, 2))], ids=str)
def test_a_run_with_damaged_packets_is_lost_only_by_these(wrong: tuple[int, ...]) -> None:
    shell = Shell()
    good = packets(*range(250, 260))
    shell.hear(damaged(good, *wrong))
    assert counted(shell)[0] == 10 - len(wrong)
    assert shell.chunks() == {}
    shell.hear(packets(*(250 + place for place in wrong)))
    assert shell.chunks() == {1: chunk_bytes(1)}


def test_repair_in_hand_mends_a_run_with_damaged_packets_at_once() -> None:
    shell = Shell()
    shell.hear(repairs(2, 5, 9), damaged(packets(*range(250, 260)), 2, 7))
    assert shell.chunks() == {1: chunk_bytes(1)}


def test_a_damaged_repair_symbol_is_not_kept() -> None:
    shell = Shell()
    shell.hear(packets(*range(251, 260)), damaged(repairs(2, 0), 0))
    assert shell.chunks() == {}
    shell.hear(repairs(2, 1))
    assert shell.chunks() == {1: chunk_bytes(1)}


def test_a_replayed_session_changes_nothing() -> None:
    shell = Shell()
    session = [packets(*range(0, 100)), repairs(0, 0, 1), a_beacon(Phase.SENDING, 100, 0)]
    shell.hear(*session)
    before = counted(shell)
    shell.hear(*session, *reversed(session))
    assert counted(shell) == before
    assert shell.session.statistics().rejected == {Reject.REPEATED: 2 * 103}
    assert shell.session.statistics().duplicate_packets == 0


def test_packets_that_came_twice_in_one_batch_count_once() -> None:
    shell = Shell()
    batch = packets(*range(250, 260), sequence=0)
    shell.join(0)
    shell.hear(a_beacon(Phase.WAITING), np.repeat(batch, 2, axis=0)[np.random.default_rng(3).permutation(20)])
    assert counted(shell)[:2] == (10, 0)
    assert shell.chunks() == {1: chunk_bytes(1)}


@pytest.mark.parametrize("forged_first", [True, False])
def test_a_forged_packet_does_not_stand_for_the_true_one_of_its_sequence(forged_first: bool) -> None:
    shell = Shell()
    true, forged = packets(*range(250, 260), sequence=500), packets(*range(250, 260), sequence=500, key=WRONG_KEY)
    pairs = (forged, true) if forged_first else (true, forged)
    shell.join(500)
    shell.hear(np.stack(pairs, axis=1).reshape(20, PACKET_BYTES))
    assert shell.chunks() == {1: chunk_bytes(1)}
    shell.hear(packets(*range(0, 5), sequence=510))
    assert counted(shell)[:2] == (15, 0)


def test_many_forged_packets_of_one_sequence_keep_out_neither_the_true_one_nor_its_neighbours() -> None:
    shell = Shell()
    shell.join(500)
    true = packets(*range(250, 260), sequence=500)
    forged = packets(*range(0, 40), sequence=500, key=WRONG_KEY)
    forged[:, 12:HEADER_BYTES] = true[4, 12:HEADER_BYTES]
    shell.hear(np.concatenate((forged[:20], true, forged[20:])))
    assert counted(shell)[:2] == (10, 0)
    assert shell.chunks() == {1: chunk_bytes(1)}
    rejected = shell.session.statistics().rejected
    assert rejected == {Reject.FORGED: 20, Reject.REPEATED: 20}  # those behind the true one are not opened


def test_forged_sequences_far_ahead_do_not_shut_out_the_true_ones() -> None:
    shell = Shell()
    shell.join(0)
    shell.hear(packets(0, 1, sequence=0), packets(2, 3, sequence=2**32 - 10, key=WRONG_KEY), packets(2, 3, sequence=2))
    assert counted(shell)[:2] == (4, 0)


def test_what_is_older_than_the_window_is_not_taken() -> None:
    shell = Shell()
    shell.hear(packets(0, sequence=0))
    shell.hear(packets(1, sequence=SequenceWindow.SIZE + 5), packets(2, sequence=5), packets(3, sequence=6), now=1.1)
    assert shell.session.statistics().rejected == {Reject.REPEATED: 1}
    assert counted(shell)[0] == 3


def test_forged_and_replayed_beacons_say_nothing() -> None:
    shell = Shell()
    early, late = a_beacon(Phase.WAITING), a_beacon(Phase.REPAIRING, 10, 4)
    shell.hear(damaged(a_beacon(Phase.ENDED), 0), packets(250), late, early)
    assert shell.events() == []
    assert shell.session.statistics().rejected == {Reject.FORGED: 1, Reject.REPEATED: 1}


def test_data_cannot_be_made_a_beacon_nor_a_beacon_data() -> None:
    shell = Shell()
    beacon, data = a_beacon(Phase.ENDED).copy(), packets(250)
    beacon[0, 1], data[0, 1] = data[0, 1], beacon[0, 1]
    shell.hear(beacon, data)
    assert shell.events() == [] and counted(shell)[0] == 0


def test_the_rows_of_repair_symbols_are_proven() -> None:
    shell = Shell()
    shell.hear(packets(*range(251, 260)))
    forged = repairs(2, 3)
    forged[0, 3] = 4
    shell.hear(forged)
    assert shell.chunks() == {}
    assert shell.session.statistics().rejected == {Reject.FORGED: 1}


@pytest.mark.parametrize("bit", range(0, 8 * len(an_ack(Kind.JOIN)), 5))
def test_an_answer_with_one_bit_wrong_is_not_taken(bit: int) -> None:
    shell = Shell()
    answer = bytearray(an_ack(Kind.JOIN, Answer.FAILED_BEFORE))
    answer[bit // 8] ^= 1 << bit % 8
    shell.session.receive_datagram(bytes(answer), 0.0)
    assert shell.events() == []
    assert sum(shell.session.statistics().rejected.values()) == 1


def test_answers_cut_anywhere_replayed_or_of_its_own_are_not_taken() -> None:
    shell = Shell()
    old, new = an_ack(Kind.JOIN, Answer.FAILED_BEFORE), an_ack(Kind.JOIN)
    for length in range(len(new)):
        shell.session.receive_datagram(new[:length], 0.0)
    shell.session.receive_datagram(new, 0.0)
    shell.events()
    for replayed in (new, old, *shell.session.datagrams_to_send(0.0)):
        shell.session.receive_datagram(replayed, 0.0)
    assert shell.events() == []


def test_junk_of_any_head_changes_nothing_that_is_reported() -> None:
    shell = Shell()
    shell.hear(packets(*range(0, 50)))
    before = counted(shell)
    chance = np.random.default_rng(4)
    for batch in (packets(*range(50, 90)), repairs(0, *range(20)), a_beacon(Phase.REPAIRING, 90, 4)):
        for at in range(HEADER_BYTES):
            junk = batch.copy()
            junk[:, at] ^= chance.integers(1, 256, len(junk), np.uint8)
            shell.hear(junk)
    assert counted(shell) == before
    assert not any(isinstance(message, Nack) for message in shell.said(1.0))
    shell.hear(packets(*range(50, 250)))
    assert shell.chunks() == {0: chunk_bytes(0)}


OLD = packets(0, 1, sequence=5)
SENT = 9_000_000
"""What the sender had sent when it heard of this receiver."""


@pytest.mark.parametrize("first", [OLD, a_beacon(Phase.SENDING, 5, 0)], ids=["data", "a beacon"])
def test_what_was_sent_before_a_receiver_came_is_no_loss_when_somebody_sends_it_again(first: ByteArray) -> None:
    shell = Shell()
    shell.hear(first)
    shell.join(SENT)
    assert counted(shell)[1] == 0
    shell.hear(packets(*range(250, 260), sequence=SENT + 2))
    shell.hear(a_beacon(Phase.SENDING, SENT + 15, 0), packets(2, sequence=100), packets(3, sequence=SENT - 1), now=0.2)
    assert counted(shell)[1] == 5  # between what came and what the sender says
    assert shell.chunks() == {1: chunk_bytes(1)}
    assert shell.session.statistics().rejected == {Reject.REPEATED: 2}


def test_what_came_before_the_answer_to_its_join_is_taken_and_counts_from_there_on() -> None:
    shell = Shell()
    shell.hear(packets(*range(250, 255), sequence=SENT - 5))
    shell.hear(packets(*range(255, 258), sequence=SENT + 1))
    assert counted(shell)[:2] == (8, 0)
    shell.join(SENT)
    assert counted(shell)[:2] == (8, 1)  # the sequence SENT
    shell.hear(packets(258, 259, sequence=SENT + 6))
    assert counted(shell)[:2] == (10, 3)
    assert shell.chunks() == {1: chunk_bytes(1)}


def test_a_receiver_whose_answer_comes_late_counts_from_what_it_remembers() -> None:
    shell = Shell()
    shell.hear(packets(0, sequence=SENT), packets(1, sequence=SENT + 100_000))
    shell.join(SENT)
    assert counted(shell)[1] == SequenceWindow.SIZE - 1


def test_a_long_gap_is_a_loss() -> None:
    shell = Shell()
    shell.join(5)
    shell.hear(OLD, packets(2, sequence=100_007))
    assert counted(shell)[1] == 100_000
