"""One TFTP transfer, step by step, on bytes and a made-up clock."""

import itertools

import pytest
from tftp_builders import BytesContent

from netboot.tftp.options import Limits, Terms, negotiate
from netboot.tftp.retransmission import INITIAL_S, MAX_S, MIN_S, RetransmissionTimer
from netboot.tftp.transfer import (
    MAX_SENDS,
    MAX_SENDS_UNCONFIRMED,
    ReadTransfer,
    TransferDeclined,
    TransferFailed,
    TransferFinished,
)
from netboot.wire.tftp import Data, Error, OptionAck, TftpPacket, build_ack, build_data_header, build_error, parse_tftp
from netboot.wire.tftp import ErrorCode as Code

PEER = ("10.77.0.50", 2070)
STRANGER = ("10.77.0.66", 2070)


def a_transfer(
    size: int = 2000, window: int = 1, block: int = 512, accepted: dict[str, str] | None = None
) -> ReadTransfer:
    content = BytesContent(bytes(i % 251 for i in range(size)))
    return ReadTransfer(PEER, content, Terms(block, window, accepted=accepted or {}), now=0.0)


def sent(transfer: ReadTransfer, now: float = 0.0) -> list[TftpPacket]:
    outgoing = transfer.datagrams_to_send(now)
    assert all(destination == PEER for _, destination in outgoing)
    return [parse_tftp(data) for data, _ in outgoing]


def blocks(transfer: ReadTransfer, now: float = 0.0) -> list[int]:
    return [packet.block for packet in sent(transfer, now) if isinstance(packet, Data)]


def acknowledge(transfer: ReadTransfer, block: int, now: float = 0.0) -> list[int]:
    transfer.receive_datagram(build_ack(block), PEER, now)
    return blocks(transfer, now)


def fetch(transfer: ReadTransfer, window: int = 1) -> bytes:
    """Take the whole file as a client without loss."""
    got = b""
    now = 0.0
    outgoing = sent(transfer, now)
    while not transfer.is_over:
        now += 0.001
        if isinstance(outgoing[0], OptionAck):
            transfer.receive_datagram(build_ack(0), PEER, now)
        else:
            assert 0 < len(outgoing) <= window
            for packet in outgoing:
                assert isinstance(packet, Data)
                got += packet.payload
                last = packet.block
            transfer.receive_datagram(build_ack(last), PEER, now)
        outgoing = sent(transfer, now)
    assert outgoing == []
    return got


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 5000])
@pytest.mark.parametrize("window", [1, 4, 16])
def test_a_file_of_any_size_arrives_whole(size: int, window: int) -> None:
    transfer = a_transfer(size, window)
    assert fetch(transfer, window) == bytes(i % 251 for i in range(size))
    assert transfer.events() == [TransferFinished(size, 0)]
    assert transfer.next_timeout() is None


def test_a_full_last_block_is_followed_by_an_empty_one() -> None:
    transfer = a_transfer(512)
    assert blocks(transfer) == [1]
    transfer.receive_datagram(build_ack(1), PEER, 0)
    assert sent(transfer) == [Data(2, b"")]


def test_options_are_acknowledged_first_and_data_waits_for_ack_0() -> None:
    transfer = a_transfer(accepted={"tsize": "2000"})
    assert sent(transfer) == [OptionAck({"tsize": "2000"})]
    assert acknowledge(transfer, 1) == []
    assert acknowledge(transfer, 65535) == []
    assert acknowledge(transfer, 0) == [1]


def test_a_client_that_ends_after_the_option_acknowledgement_is_a_reason() -> None:
    # PXE ROMs ask for tsize alone first, then end the transfer and start it again.
    transfer = a_transfer(accepted={"tsize": "2000"})
    sent(transfer)
    transfer.receive_datagram(build_error(Code.NOT_DEFINED, "TFTP Aborted"), PEER, 0.1)
    assert transfer.events() == [TransferDeclined(2000, "TFTP Aborted")]
    assert sent(transfer) == []


@pytest.mark.parametrize("window", [1, 16])
def test_block_numbers_roll_over_to_0(window: int) -> None:
    size = 8 * 65537 + 3
    transfer = a_transfer(size, window, block=8)
    assert fetch(transfer, window) == bytes(i % 251 for i in range(size))
    assert transfer.events() == [TransferFinished(size, 0)]


def test_a_duplicate_ack_is_not_answered_twice() -> None:
    transfer = a_transfer()
    assert blocks(transfer) == [1]
    assert acknowledge(transfer, 1, 0.1) == [2]
    assert acknowledge(transfer, 1, 0.2) == []
    assert acknowledge(transfer, 1, 0.9) == []
    assert transfer.ignored == {"duplicate ACK": 2}


def test_every_packet_doubled_by_the_network_does_not_double_the_windows() -> None:
    transfer = a_transfer(512 * 64, window=4)
    assert blocks(transfer) == [1, 2, 3, 4]
    count = 4
    now = 0.0
    acknowledged = 0
    while not transfer.is_over:
        now += 0.01
        acknowledged = min(acknowledged + 4, 65)
        count += len(acknowledge(transfer, acknowledged, now))
        count += len(acknowledge(transfer, acknowledged, now + 0.0001))
    assert count == 65


def test_a_window_whose_first_block_was_lost_is_sent_again_when_the_client_says_so() -> None:
    transfer = a_transfer(512 * 64, window=4)
    blocks(transfer)
    assert acknowledge(transfer, 4, 0.01) == [5, 6, 7, 8]
    assert acknowledge(transfer, 4, 0.02) == [5, 6, 7, 8]  # a round trip later: it saw 6, but not 5
    assert acknowledge(transfer, 4, 0.03) == []  # once; then the timer decides


@pytest.mark.parametrize("lost_block", [17, 18, 20])
def test_one_lost_block_does_not_send_every_later_window_twice(lost_block: int) -> None:
    """Packets take 10 ms each way. The client does as atftp 0.8: an ACK each four blocks since its last one, and its
    last ACK again at the first of some old or early blocks."""
    transfer = a_transfer(512 * 200, window=4)
    now, count, received, acknowledged = 0.0, 0, 0, 0
    told, lost = False, False
    on_the_way: list[tuple[float, int, int, bytes]] = []
    while not transfer.is_over:
        for data, _ in transfer.datagrams_to_send(now):
            count += 1
            packet = parse_tftp(data)
            assert isinstance(packet, Data)
            if packet.block == lost_block and not lost:
                lost = True
            else:
                on_the_way.append((now + 0.010, count, packet.block, b""))
        on_the_way.sort()
        deadline = transfer.next_timeout()
        assert deadline is not None
        if not on_the_way or on_the_way[0][0] > deadline:
            now = deadline
            transfer.handle_timeout(now)
            continue
        now, order, block, ack = on_the_way.pop(0)
        if ack:
            transfer.receive_datagram(ack, PEER, now)
            continue
        told = told and block != received + 1
        if block == received + 1:
            received += 1
            if received - acknowledged < 4 and received < 201:
                continue
        elif told:
            continue
        else:
            told = True
        acknowledged = received
        on_the_way.append((now + 0.010, order, 0, build_ack(received)))
    assert lost
    assert count <= 201 + 3 * 4
    assert now < 51 * 0.02 + 0.5


def test_a_window_is_resumed_after_the_block_that_arrived() -> None:
    transfer = a_transfer(512 * 64, window=4)
    blocks(transfer)
    assert acknowledge(transfer, 2, 0.01) == [3, 4, 5, 6]
    assert fetch_rest_events(transfer, 6) == [TransferFinished(512 * 64, 2)]


def fetch_rest_events(transfer: ReadTransfer, acknowledged: int) -> list[object]:
    while not transfer.is_over:
        transfer.receive_datagram(build_ack(acknowledged), PEER, 0.1)
        acknowledged = next(iter(blocks(transfer, 0.1)[-1:]), acknowledged)
    return list(transfer.events())


@pytest.mark.parametrize("block", [2, 3, 1000, 65535])
def test_an_ack_of_what_was_not_sent_changes_nothing(block: int) -> None:
    transfer = a_transfer()
    blocks(transfer)
    assert acknowledge(transfer, block) == []
    assert not transfer.is_over
    assert acknowledge(transfer, 1) == [2]


def test_an_old_ack_changes_nothing() -> None:
    transfer = a_transfer(512 * 64, window=4)
    blocks(transfer)
    acknowledge(transfer, 4, 0.01)
    assert acknowledge(transfer, 3, 0.05) == []
    assert acknowledge(transfer, 8, 0.06) == [9, 10, 11, 12]


@pytest.mark.parametrize("data", [build_ack(1), build_error(Code.NOT_DEFINED, "stop")])
def test_what_another_address_sends_changes_nothing(data: bytes) -> None:
    transfer = a_transfer()
    blocks(transfer)
    transfer.receive_datagram(data, STRANGER, 0.1)
    assert transfer.datagrams_to_send(0.1) == []
    assert not transfer.is_over
    assert acknowledge(transfer, 1, 0.2) == [2]


def test_a_client_whose_port_is_closed_ends_the_transfer_at_once() -> None:
    transfer = a_transfer()
    blocks(transfer)
    transfer.receive_refusal()
    assert transfer.events() == [TransferFailed("the client closed its port", 0)]
    assert transfer.next_timeout() is None


def fetch_fast(transfer: ReadTransfer, window: int) -> tuple[bytes, int]:
    """Take the whole file as the shell serves it: the expected ACK first. Also how often that was enough."""
    got, now, fast = b"", 0.0, 0
    bursts = transfer.bursts_to_send(now)
    while not transfer.is_over:
        now += 0.001
        data = b"".join(bursts)
        packets = [data[at : at + transfer.packet_bytes] for at in range(0, len(data), transfer.packet_bytes)]
        assert 0 < len(packets) <= window
        got += b"".join(packet[4:] for packet in packets)
        ack = b"\0\4" + packets[-1][2:4]
        burst = transfer.receive_expected(ack, now)
        fast += burst is not None
        if burst is not None:
            bursts = [burst]
        else:
            transfer.receive_datagram(ack, PEER, now)
            bursts = transfer.bursts_to_send(now)
    return got, fast


@pytest.mark.parametrize("window", [1, 4, 5, 16, 64])
@pytest.mark.parametrize("size", [0, 511, 512, 40_000, 8 * 65536 * 2 + 5])
def test_the_fast_path_sends_the_same_file(size: int, window: int) -> None:
    block = 8 if size > 100_000 else 512
    transfer = a_transfer(size, window, block)
    got, fast = fetch_fast(transfer, window)
    assert got == bytes(i % 251 for i in range(size))
    assert transfer.events() == [TransferFinished(size, 0)]
    if size > 100_000 and window <= 16:
        assert fast > 0.7 * (size / block / window)


def test_the_fast_path_leaves_every_other_packet_to_the_whole_protocol() -> None:
    transfer = a_transfer(512 * 100, window=4)
    transfer.bursts_to_send(0.0)
    for data in (b"", build_ack(3), build_ack(5), build_ack(4) + b"x", build_error(Code.NOT_DEFINED, "stop")):
        assert transfer.receive_expected(data, 0.1) is None
    assert transfer.receive_expected(build_ack(4), 0.1) is not None
    assert transfer.receive_expected(build_ack(4), 0.1) is None, "a duplicate"
    assert transfer.blocks_acknowledged == 4


def test_an_echo_after_a_resend_does_not_take_the_fast_path() -> None:
    transfer = a_transfer(512 * 100, window=4)
    blocks(transfer)
    deadline = transfer.next_timeout()
    assert deadline is not None
    transfer.handle_timeout(deadline)
    assert blocks(transfer, deadline) == [1, 2, 3, 4]
    assert transfer.receive_expected(build_ack(4), deadline + 0.1) is None


def roll(transfer: ReadTransfer, after_65535: list[int]) -> bool:
    """A client of one block a window whose numbers after 65535 are these, again and again; is the file whole?"""
    received, now, expected = b"", 0.0, 1
    while not transfer.is_over:
        outgoing = transfer.datagrams_to_send(now)
        now += 0.001
        took = False
        for data, _ in outgoing:
            packet = parse_tftp(data)
            assert isinstance(packet, Data)
            if packet.block == expected:
                received += packet.payload
                took = True
                expected = after_65535[0] if expected == 65535 else expected + 1
                transfer.receive_datagram(build_ack(packet.block), PEER, now)
        if not took:
            deadline = transfer.next_timeout()
            if deadline is None:
                break
            now = deadline
            transfer.handle_timeout(now)
    return received == bytes(i % 251 for i in range(len(received))) and isinstance(
        transfer.events()[0], TransferFinished
    )


@pytest.mark.parametrize("after", [0, 1])
def test_a_client_that_goes_on_with_0_or_with_1_after_65535_gets_the_file_without_asking(after: int) -> None:
    assert roll(a_transfer(8 * 65537 * 2 + 3, block=8), [after])


@pytest.mark.parametrize("after", ["0", "1"])
def test_a_client_that_names_its_rollover_gets_it_without_delay(after: str) -> None:
    size = 8 * 65537 * 2 + 3
    terms = negotiate({"rollover": after, "blksize": "8"}, size, Limits())
    transfer = ReadTransfer(PEER, BytesContent(bytes(i % 251 for i in range(size))), terms, 0.0)
    assert sent(transfer) == [OptionAck({"blksize": "8", "rollover": after})]
    transfer.receive_datagram(build_ack(0), PEER, 0.0)
    assert roll(transfer, [int(after)])
    assert transfer.blocks_acknowledged == size // 8 + 1


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\3\0", b"\0\x09ab", b"\xff" * 2000, b"\0\1a\0octet\0", build_data_header(1)]
)
def test_junk_of_the_peer_changes_nothing(data: bytes) -> None:
    transfer = a_transfer()
    blocks(transfer)
    transfer.receive_datagram(data, PEER, 0.1)
    assert sent(transfer, 0.1) == []
    assert sum(transfer.ignored.values()) == 1
    assert acknowledge(transfer, 1, 0.2) == [2]


def run_to_silence(transfer: ReadTransfer) -> tuple[int, list[float]]:
    """Bytes that are sent to a client that says nothing, and when."""
    count = 0
    times = []
    while (deadline := transfer.next_timeout()) is not None:
        transfer.handle_timeout(deadline)
        outgoing = transfer.datagrams_to_send(deadline)
        if outgoing:
            count += sum(len(data) for data, _ in outgoing)
            times.append(deadline)
    return count, times


@pytest.mark.parametrize("accepted", [{}, {"blksize": "1468", "windowsize": "64"}])
def test_a_forged_request_draws_few_small_packets(accepted: dict[str, str]) -> None:
    terms = negotiate(accepted, 10**6, Limits())
    transfer = ReadTransfer(PEER, BytesContent(bytes(10**6)), terms, 0.0)
    count, times = run_to_silence(transfer)
    assert len(times) == MAX_SENDS_UNCONFIRMED
    assert count <= 3000
    assert transfer.events() == [TransferFailed("the client never answered", 0)]


def test_silence_in_the_middle_ends_after_growing_waits() -> None:
    transfer = a_transfer()
    blocks(transfer)
    assert acknowledge(transfer, 1, 0.01) == [2]
    _, times = run_to_silence(transfer)
    assert len(times) == MAX_SENDS - 1
    waits = [round(later - earlier, 6) for earlier, later in zip([0.01, *times], times, strict=False)]
    assert waits == sorted(waits)
    assert waits[0] >= MIN_S
    assert waits[-1] <= MAX_S
    assert transfer.events() == [TransferFailed("the client stopped answering", 512)]


def test_a_lost_block_is_sent_again_when_time_is_up_and_not_before() -> None:
    transfer = a_transfer()
    blocks(transfer)
    deadline = transfer.next_timeout()
    assert deadline == INITIAL_S
    transfer.handle_timeout(deadline - 0.01)
    assert blocks(transfer, deadline - 0.01) == []
    transfer.handle_timeout(deadline)
    assert blocks(transfer, deadline) == [1]
    acknowledge(transfer, 1, deadline + 0.1)
    assert fetch_rest_events(transfer, 2) == [TransferFinished(2000, 1)]


def test_a_file_that_shrinks_under_way_ends_with_an_error_to_the_client() -> None:
    class Shrunk(BytesContent):
        def read(self, offset: int, length: int) -> bytes:
            return b"" if offset else super().read(offset, length)

    transfer = ReadTransfer(PEER, Shrunk(bytes(512 * 200)), Terms(), 0.0)
    blocks(transfer)
    for block in range(1, 64):
        assert acknowledge(transfer, block, 0.1) == [block + 1]
    transfer.receive_datagram(build_ack(64), PEER, 0.1)
    (answer,) = sent(transfer, 0.1)
    assert answer == Error(0, "the file became shorter while it was sent")
    assert transfer.events() == [TransferFailed("the file became shorter while it was sent", 512 * 64)]


def test_a_disk_that_fails_ends_with_an_error_to_the_client() -> None:
    class Broken(BytesContent):
        def read(self, offset: int, length: int) -> bytes:
            raise OSError(5, "Input/output error")

    transfer = ReadTransfer(PEER, Broken(bytes(2000)), Terms(), 0.0)
    (answer,) = sent(transfer)
    assert answer == Error(0, "the file cannot be read: Input/output error")
    assert transfer.is_over


def test_the_timer_follows_the_round_trip_and_backs_off() -> None:
    timer = RetransmissionTimer()
    assert timer.interval_s() == INITIAL_S
    for _ in range(20):
        timer.measured(0.2)
    assert MIN_S <= timer.interval_s() < 0.35
    timer.expired()
    assert timer.interval_s() >= 2 * MIN_S
    for _ in range(20):
        timer.expired()
    assert timer.interval_s() == MAX_S
    timer.progressed()
    assert timer.interval_s() < 0.35


def test_the_clients_own_timeout_is_kept_twice_and_then_grows() -> None:
    timer = RetransmissionTimer(3)
    timer.measured(0.001)
    waits = []
    for _ in range(6):
        waits.append(timer.interval_s())
        timer.expired()
    assert waits == [3, 3, 3, 6, MAX_S, MAX_S]
    assert RetransmissionTimer(30).interval_s() == 30


def test_a_resent_block_leaves_the_client_time_to_send_its_ack_again() -> None:
    # Seen on: atftp 0.8. It ignores a block that comes a third time, and its 5 seconds start anew at each packet.
    for fixed_s in (None, 1):
        transfer = ReadTransfer(PEER, BytesContent(bytes(2000)), Terms(timeout_s=fixed_s), 0.0)
        blocks(transfer)
        acknowledge(transfer, 1, 0.01)
        _, times = run_to_silence(transfer)
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) > 6
