"""Sets of byte ranges: merged, cut at windows. Pure: no I/O."""

from collections.abc import Iterable, Iterator

from imager.image.manifest import Extent


def merge_extents(ranges: Iterable[tuple[int, int]], source_bytes: int, align: int = 1) -> tuple[Extent, ...]:
    """(offset, length) in any order, overlapping or not, as sorted extents that neither overlap nor touch.

    Each is widened to multiples of `align` and clipped to 0..source_bytes.
    """
    merged: list[list[int]] = []
    for offset, length in sorted(ranges):
        start = max(0, offset) // align * align
        end = min(source_bytes, -(-(offset + length) // align) * align)
        if length <= 0 or end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return tuple(Extent(start, end - start) for start, end in merged)


def cut_windows(extents: Iterable[Extent], window_bytes: int) -> Iterator[tuple[int, tuple[Extent, ...]]]:
    """Sorted extents, cut at the borders of windows: (window, its extents) for each window that has any."""
    current, inside = -1, list[Extent]()
    for extent in extents:
        at, end = extent.offset, extent.offset + extent.length
        while at < end:
            window = at // window_bytes
            if window != current:
                if inside:
                    yield current, tuple(inside)
                current, inside = window, []
            stop = min(end, (window + 1) * window_bytes)
            inside.append(Extent(at, stop - at))
            at = stop
    if inside:
        yield current, tuple(inside)


def total_bytes(extents: Iterable[Extent]) -> int:
    """Sum of the lengths."""
    return sum(extent.length for extent in extents)
