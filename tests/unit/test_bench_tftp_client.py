"""The bench's own TFTP client beside our server's core: the file is right whatever the line does."""

import random

import numpy as np
import pytest
from classroom.tftp_client import WindowedFile
from tftp_builders import BytesContent

from netboot.tftp.options import Limits, negotiate
from netboot.tftp.transfer import ReadTransfer, TransferFinished
from netboot.wire.tftp import ErrorCode, build_ack, build_data_header, build_error, build_option_ack

PEER = ("192.0.2.1", 1024)


def as_array(*packets: bytes) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.frombuffer(b"".join(packets), np.uint8)


def fetched(content: bytes, block_bytes: int, window: int, rng: random.Random, loss: float, doubled: float) -> bytes:
    """What the client has when the server says that it ended; packets come joined, as many as the line left."""
    options = {"blksize": str(block_bytes), "windowsize": str(window)}
    transfer = ReadTransfer(PEER, BytesContent(content), negotiate(options, len(content), Limits()), 0.0)
    file = WindowedFile(len(content), block_bytes, window)
    now = 0.0
    transfer.datagrams_to_send(now)
    answer: bytes | None = file.acknowledgement()
    for _ in range(10 * (len(content) // block_bytes + 100)):
        now += 0.001
        if answer is not None and rng.random() >= loss:
            transfer.receive_datagram(answer, PEER, now)
        if transfer.is_over:
            assert isinstance(transfer.events()[0], TransferFinished)
            assert file.is_whole
            return file.content()
        sent = [packet for packet, _ in transfer.datagrams_to_send(now) if rng.random() >= loss]
        came = [packet for packet in sent for _ in range(2 if rng.random() < doubled else 1)]
        answer = None
        for call in _calls(came, file.packet_bytes):
            answer = file.take(as_array(*call)) or answer
        if answer is None:
            answer = file.acknowledgement()
            now = max(now, transfer.next_timeout() or now)
            transfer.handle_timeout(now)
    raise AssertionError("no end")


def _calls(packets: list[bytes], packet_bytes: int) -> list[list[bytes]]:
    """As the kernel joins them: a shorter one is the last of its call."""
    calls: list[list[bytes]] = [[]]
    for packet in packets:
        calls[-1].append(packet)
        if len(packet) < packet_bytes:
            calls.append([])
    return calls


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 16 * 512, 70_000])
@pytest.mark.parametrize("window", [1, 4, 16])
def test_file_of_any_size_comes_whole(size: int, window: int) -> None:
    content = random.Random(size).randbytes(size)
    assert fetched(content, 512, window, random.Random(1), loss=0.0, doubled=0.0) == content


def test_numbers_go_on_at_zero_after_65535() -> None:
    content = random.Random(7440).randbytes(8 * 140_000 + 3)
    assert fetched(content, 8, 64, random.Random(1), loss=0.0, doubled=0.0) == content


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("window", [1, 4, 16])
def test_file_comes_whole_over_a_line_that_loses_and_doubles(seed: int, window: int) -> None:
    content = random.Random(seed).randbytes(30_000)
    assert fetched(content, 128, window, random.Random(seed), loss=0.05, doubled=0.05) == content


def test_gap_is_told_once_and_what_came_after_it_is_dropped() -> None:
    file = WindowedFile(100, 10, 4)
    first, *_, third, fourth = (build_data_header(number) + bytes(10) for number in (1, 2, 3, 4))
    assert file.take(as_array(first, third)) == build_ack(1)
    assert file.take(as_array(fourth)) is None
    assert file.take(as_array(*(build_data_header(number) + bytes(10) for number in (2, 3, 4, 5)))) == build_ack(5)


def test_last_block_of_another_length_is_not_the_end_of_the_file() -> None:
    file = WindowedFile(13, 10, 4)
    assert file.take(as_array(build_data_header(1) + bytes(10), build_data_header(2) + bytes(2))) is None
    assert file.take(as_array(build_data_header(2) + bytes(10))) is None
    assert not file.is_whole
    assert file.take(as_array(build_data_header(2) + bytes(3))) == build_ack(2)
    assert file.is_whole


def test_an_option_acknowledgement_that_comes_again_changes_nothing_and_an_error_is_told() -> None:
    file = WindowedFile(100, 20, 4)
    assert file.take(as_array(build_option_ack({"windowsize": "4"}))) is None
    with pytest.raises(ValueError, match="disk full"):
        file.take(as_array(build_error(ErrorCode.DISK_FULL, "disk full")))
