"""What holds of the cast's parsers, its erasure code and its layout for any input."""

import random
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.errors import PacketError
from imager.multicast.erasure import MAX_BLOCK_SYMBOLS, REPAIR_ROWS, ErasureCode, IsalCode, TableCode, coefficients
from imager.multicast.layout import CastLayout, unpack_wanted
from imager.multicast.sequence import distance, extend
from imager.multicast.window import SequenceWindow
from imager.wire.announce import parse_announce
from imager.wire.packets import (
    Head,
    Nack,
    build_control,
    build_head,
    kind_of,
    parse_ack,
    parse_beacon,
    parse_control,
    parse_head,
)
from imager.wire.session import SYMBOL_BYTES, TAG_BYTES, Kind

HEADS = st.sampled_from([bytes([0xCA, 0x20 | kind]) for kind in range(16)])


@given(st.one_of(st.binary(max_size=80), st.builds(bytes.__add__, HEADS, st.binary(max_size=80))))
def test_parsers_accept_or_raise_a_packet_error_and_nothing_else(data: bytes) -> None:
    for parse in (
        parse_head,
        parse_ack,
        parse_announce,
        parse_beacon,
        *(partial(parse_control, kind) for kind in Kind),
    ):
        try:
            parse(data)
        except PacketError:
            continue


@given(st.sampled_from(Kind), st.binary(max_size=200))
def test_what_is_accepted_is_built_again_as_the_same_bytes(kind: Kind, data: bytes) -> None:
    try:
        message = parse_control(kind, data)
    except PacketError:
        return
    assert kind_of(message) is kind
    assert build_control(message) == data


@given(st.sampled_from(Kind), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_a_head_survives_the_wire(kind: Kind, receiver: int, session: int, counter: int) -> None:
    head = Head(kind, receiver, session, counter)
    assert parse_head(build_head(head) + bytes(TAG_BYTES)) == head


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_sequence_is_taken_once_however_often_and_in_whatever_order_it_comes(data: st.DataObject) -> None:
    """Against a set, with jumps that leave the window behind, and a beginning that is told in the middle."""
    window, taken, first = SequenceWindow(), set[int](), 0
    highest = data.draw(st.integers(-1, 2**32 - 2**20), label="highest")
    if highest >= 0:
        window.take(np.array([highest]))
        taken.add(highest)
    steps = data.draw(st.integers(1, 12))
    begins = data.draw(st.integers(0, steps), label="begins")
    for step in range(steps):
        near = st.integers(max(0, highest - 40), highest + 40)
        far = st.integers(max(0, highest - 2 * SequenceWindow.SIZE), highest + 2 * SequenceWindow.SIZE)
        if step == begins:
            first = data.draw(st.one_of(near, far), label="first")
            highest = max(highest, first - 1)
            known = max(first, highest - SequenceWindow.SIZE + 1)
            assert window.begin(first) == (known, sum(known <= n <= highest for n in taken))
        batch = data.draw(st.lists(st.one_of(near, far), min_size=1, max_size=10, unique=True))
        fresh = window.fresh(np.array(batch))
        expected = [n not in taken and n >= max(first, highest - SequenceWindow.SIZE + 1) for n in batch]
        assert (fresh is None and all(expected)) or (fresh is not None and fresh.tolist() == expected)
        new = [n for n, is_new in zip(batch, expected, strict=True) if is_new]
        if new:
            window.take(np.array(sorted(new)))
            taken.update(new)
            highest = max(highest, *new)
        assert window.highest == highest


@pytest.fixture(params=[IsalCode, TableCode], ids=["isa-l", "numpy"], scope="module")
def code(request: pytest.FixtureRequest) -> ErasureCode:
    made: ErasureCode = request.param()
    return made


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_k_symbols_give_a_block_back(code: ErasureCode, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, MAX_BLOCK_SYMBOLS), label="k")
    lost = data.draw(st.integers(1, min(k, REPAIR_ROWS)), label="lost")
    chance = random.Random(data.draw(st.integers(0, 2**32), label="seed"))
    missing = np.array(sorted(chance.sample(range(k), lost)))
    rows = np.array(sorted(chance.sample(range(REPAIR_ROWS), lost)))
    source = np.frombuffer(chance.randbytes(k * 48), np.uint8).reshape(k, 48)
    repair = np.empty((REPAIR_ROWS, 48), np.uint8)
    code.encode(source, 0, repair)
    block = source.copy()
    block[missing] = 0xEE
    code.decode(block, missing, rows, repair[rows])
    assert np.array_equal(block, source)


@given(st.integers(1, MAX_BLOCK_SYMBOLS), st.integers(0, REPAIR_ROWS - 1), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_both_ways_compute_the_same_repair_symbols(k: int, first: int, seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(1, REPAIR_ROWS - first)
    source = np.frombuffer(chance.randbytes(k * 32), np.uint8).reshape(k, 32)
    ours, theirs = np.empty((count, 32), np.uint8), np.empty((count, 48), np.uint8)[:, 16:]
    TableCode().encode(source, first, ours)
    IsalCode().encode(source, first, theirs)
    assert np.array_equal(ours, theirs)


def test_the_coefficients_are_those_of_the_description() -> None:
    """1 / ((200 + r) xor j) over 0x11D, by a slow multiplication of its own."""

    def multiply(a: int, b: int) -> int:
        result = 0
        while b:
            if b & 1:
                result ^= a
            a = a << 1 ^ (0x11D if a & 128 else 0)
            b >>= 1
        return result

    table = coefficients()
    assert table.shape == (REPAIR_ROWS, MAX_BLOCK_SYMBOLS)
    for r in range(REPAIR_ROWS):
        for j in range(MAX_BLOCK_SYMBOLS):
            assert multiply(int(table[r, j]), (MAX_BLOCK_SYMBOLS + r) ^ j) == 1


@given(st.lists(st.integers(1, 3_000_000), max_size=40))
def test_blocks_cover_every_symbol_once_and_no_block_is_too_long(lengths: list[int]) -> None:
    layout = CastLayout(lengths)
    assert layout.block_count == len(layout.block_symbols)
    assert int(layout.block_symbols.sum()) == layout.symbol_count
    for chunk, length in enumerate(lengths):
        symbols = layout.chunk_symbols(chunk)
        assert (symbols - 1) * SYMBOL_BYTES < length <= symbols * SYMBOL_BYTES
        blocks = layout.block_symbols[layout.chunk_first_block[chunk] : layout.chunk_first_block[chunk + 1]]
        assert int(blocks.min()) >= 1
        assert int(blocks.max()) <= MAX_BLOCK_SYMBOLS
        assert int(blocks.max()) - int(blocks.min()) <= 1
        first = int(layout.chunk_first_symbol[chunk])
        for symbol in (first, first + symbols - 1):
            assert layout.chunk_of(symbol) == chunk
            assert layout.block_chunk[layout.block_of(symbol)] == chunk


@given(st.lists(st.booleans(), max_size=50))
def test_a_bitmap_of_wanted_chunks_survives_packing(wanted: list[bool]) -> None:
    array = np.array(wanted, np.bool_)
    assert unpack_wanted(np.packbits(array).tobytes(), len(wanted)).tolist() == wanted


@given(st.integers(0, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_a_wrapped_counter_is_extended_to_the_nearest(near: int, ahead: int) -> None:
    true = near + ahead
    assert extend(near, true % 2**32) == true
    assert distance(near % 2**32, true % 2**32) == ahead


def test_a_nack_keeps_its_records() -> None:
    message = parse_control(Kind.NACK, bytes.fromhex("00" * 36 + "0001 0000 00000009 00c8 0038"))
    assert isinstance(message, Nack)
    assert message.records.tolist() == [(9, 200, 56)]
