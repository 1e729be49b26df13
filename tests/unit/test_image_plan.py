"""Bitmaps of lacking chunks, their union, and extents cut at windows."""

import pytest

from imager.errors import MessageError
from imager.image.extents import cut_windows, merge_extents, total_bytes
from imager.image.manifest import Extent
from imager.image.plan import build_bitmap, count_lacking, full_bitmap, parse_bitmap, union


def test_bit_i_most_significant_first_is_chunk_i() -> None:
    assert build_bitmap([0, 9], 10) == bytes([0b1000_0000, 0b0100_0000])
    assert parse_bitmap(bytes([0b1000_0000, 0b0100_0000]), 10) == [0, 9]
    assert full_bitmap(9) == b"\xff\x80"
    assert full_bitmap(0) == b""


@pytest.mark.parametrize("bitmap", [b"", b"\0\0\0", b"\0\x20"])
def test_a_bitmap_of_another_size_or_with_spare_bits_is_refused(bitmap: bytes) -> None:
    with pytest.raises(MessageError):
        parse_bitmap(bitmap, 10)


def test_a_session_sends_what_at_least_one_machine_lacks() -> None:
    wanted = union([build_bitmap([1], 4), build_bitmap([1, 3], 4), build_bitmap([], 4)], 4)
    assert parse_bitmap(wanted, 4) == [1, 3]
    assert count_lacking(wanted) == 2
    assert count_lacking(union([], 4)) == 0


def test_extents_are_merged_aligned_and_clipped() -> None:
    ranges = [(5000, 100), (0, 512), (512, 10), (5100, 1), (9_000, 5_000), (20_000, 3), (100, 0)]
    assert merge_extents(ranges, 10_000, 512) == (Extent(0, 1024), Extent(4608, 512), Extent(8704, 1296))


def test_extents_are_cut_at_the_borders_of_windows() -> None:
    cut = list(cut_windows([Extent(100, 50), Extent(900, 1300), Extent(5000, 1)], 1000))
    assert cut == [
        (0, (Extent(100, 50), Extent(900, 100))),
        (1, (Extent(1000, 1000),)),
        (2, (Extent(2000, 200),)),
        (5, (Extent(5000, 1),)),
    ]
    assert sum(total_bytes(extents) for _, extents in cut) == 1351
