"""Whatever arrives on the TFTP ports, nothing breaks; whatever the network does, the file arrives or we know why."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.errors import WireError
from netboot.tftp.options import Limits, negotiate
from netboot.tftp.transfer import ReadTransfer, TransferFailed, TransferFinished
from netboot.wire.tftp import Data, OptionAck, build_ack, parse_tftp


class BytesContent:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


PEER = ("192.0.2.1", 1024)

almost_packets = st.builds(
    lambda opcode, rest: opcode.to_bytes(2, "big") + rest,
    st.integers(0, 7),
    st.one_of(
        st.binary(max_size=40),
        st.lists(st.sampled_from([b"a", b"octet", b"blksize", b"-1", b"", b"\xff", b"512"]), max_size=9).map(
            lambda words: b"\0".join(words) + b"\0"
        ),
    ),
)


@given(st.one_of(st.binary(max_size=600), almost_packets))
@settings(max_examples=1000, deadline=None)
def test_random_bytes_are_a_packet_or_a_wire_error(data: bytes) -> None:
    try:
        parse_tftp(data)
    except WireError as error:
        assert str(error)


@given(st.dictionaries(st.sampled_from(["blksize", "tsize", "timeout", "windowsize", "x"]), st.text(max_size=8)))
@settings(max_examples=500, deadline=None)
def test_any_option_value_gives_terms_within_the_limits(options: dict[str, str]) -> None:
    limits = Limits()
    terms = negotiate(options, 123, limits)
    assert 8 <= terms.block_bytes <= limits.block_bytes
    assert 1 <= terms.window_blocks <= limits.window_blocks
    assert terms.accepted.keys() <= options.keys() - {"x"}


@given(st.lists(st.one_of(st.binary(max_size=60), almost_packets), max_size=30))
@settings(max_examples=200, deadline=None)
def test_junk_never_breaks_a_transfer_nor_makes_it_send_more_than_a_window(junk: list[bytes]) -> None:
    transfer = ReadTransfer(PEER, BytesContent(bytes(5000)), negotiate({"windowsize": "4"}, 5000, Limits()), 0.0)
    for index, data in enumerate(junk):
        transfer.receive_datagram(data, PEER, index * 0.01)
        assert transfer.receive_expected(data, index * 0.01) is None or data[:2] == b"\0\4"
        assert len(transfer.datagrams_to_send(index * 0.01)) <= 4
    transfer.events()


class Client:
    """RFC 1350 and 7440 as a client: ACK at the end of a window, at a gap, and after a time of silence."""

    def __init__(self, window: int, block_bytes: int) -> None:
        self.window = window
        self.block_bytes = block_bytes
        self.data = b""
        self.received = 0
        self.acknowledged = -1
        self.is_complete = False
        self.gap_told = False

    def receive(self, data: bytes) -> list[bytes]:
        packet = parse_tftp(data)
        if isinstance(packet, OptionAck):
            self.acknowledged = 0
            return [build_ack(0)] if self.received == 0 else []
        assert isinstance(packet, Data)
        if packet.block == (self.received + 1) & 0xFFFF and not self.is_complete:
            self.received += 1
            self.gap_told = False
            self.data += packet.payload
            self.is_complete = len(packet.payload) < self.block_bytes
            if self.is_complete or self.received - max(self.acknowledged, 0) >= self.window:
                self.acknowledged = self.received
                return [build_ack(self.received)]
            return []
        if self.is_complete or not self.gap_told:
            self.gap_told = True
            self.acknowledged = self.received
            return [build_ack(self.received)]
        return []


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0, 1, 7, 8, 9, 300, 1000, 3000]),
    window=st.sampled_from([1, 2, 4, 16]),
    loss=st.sampled_from([0.0, 0.02, 0.1]),
    doubled=st.sampled_from([0.0, 0.05, 0.5]),
    late=st.sampled_from([0.0, 0.05]),
)
@settings(max_examples=100, deadline=None)
def test_a_file_arrives_whole_over_a_bad_network(
    seed: int, size: int, window: int, loss: float, doubled: float, late: float
) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(size)
    options = {"windowsize": str(window), "blksize": "8"}
    transfer = ReadTransfer(PEER, BytesContent(content), negotiate(options, size, Limits()), 0.0)
    client = Client(window, 8)
    now = 0.0
    in_flight: list[tuple[float, int, bool, bytes]] = []  # when, order, to the server, datagram
    order = 0

    def carry(data: bytes, to_server: bool) -> None:
        nonlocal order
        for _ in range(2 if rng.random() < doubled else 1):
            if rng.random() >= loss:
                order += 1
                delay = 0.001 + (0.005 if rng.random() < late else 0.0)
                in_flight.append((now + delay, order, to_server, data))

    for _ in range(200_000):
        for data, _destination in transfer.datagrams_to_send(now):
            carry(data, to_server=False)
        if transfer.is_over:
            break
        deadline = transfer.next_timeout()
        assert deadline is not None
        in_flight.sort()
        if in_flight and in_flight[0][0] <= deadline:
            now, _, to_server, data = in_flight.pop(0)
            if to_server:
                transfer.receive_datagram(data, PEER, now)
            else:
                for answer in client.receive(data):
                    carry(answer, to_server=True)
        else:
            now = max(now, deadline)
            transfer.handle_timeout(now)
    assert transfer.is_over, f"no end, seed {seed}"
    (event,) = transfer.events()
    if isinstance(event, TransferFinished):
        assert client.data == content
        if loss == late == doubled == 0:
            assert event.blocks_resent == 0, f"nothing was lost, seed {seed}"
        if loss == late == 0 and doubled < 0.5:
            # A doubled block inside a window draws an ACK that looks like a gap; it must not go on for ever.
            assert event.blocks_resent <= size // 8 + 2 * window, f"seed {seed}"
    else:
        # Every send of one window lost: rare, and never without loss.
        assert isinstance(event, TransferFailed)
        assert loss > 0
        assert content.startswith(client.data)
