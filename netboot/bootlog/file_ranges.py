"""A file that is fetched in ranges: what of it was sent, summed up. Pure."""

from dataclasses import replace

from netboot.bootlog.events import Fetch, FetchState, Span

MOST_RANGES = 64
"""Kept of a file that is fetched in pieces that do not touch: those nearest to its beginning."""


def ranges_of(span: Span, size: int) -> tuple[Span, ...]:
    """What a fetch of this span of a file is told with: nothing when it is all of the file."""
    return () if (span.first, span.end) == (0, size) else (span,)


def is_more_of(part: Fetch, before: Fetch) -> bool:
    """Whether both are ranges of the same file at the same size."""
    are_parts = part.state is before.state is FetchState.PART
    return are_parts and (part.transport, part.path, part.size) == (before.transport, before.path, before.size)


def add_part(before: Fetch, part: Fetch) -> Fetch:
    """Both as one: DONE when nothing of the file is missing. What was sent twice counts twice in `sent`."""
    ranges = _joined(before.ranges + part.ranges)
    together = replace(
        part,
        ranges=ranges,
        parts=before.parts + part.parts,
        sent=before.sent + part.sent,
        seconds=before.seconds + part.seconds,
    )
    return replace(together, state=FetchState.DONE, ranges=()) if ranges == (Span(0, part.size),) else together


def range_words(ranges: tuple[Span, ...]) -> str:
    """The last byte of each is counted, as HTTP does."""
    told = ", ".join(f"{span.first:,} to {span.end - 1:,}" for span in ranges[:3])
    return f"bytes {told}" + (f" and {len(ranges) - 3} ranges more" if len(ranges) > 3 else "")


def _joined(ranges: tuple[Span, ...]) -> tuple[Span, ...]:
    joined: list[Span] = []
    for span in sorted(ranges, key=lambda span: span.first):
        if joined and span.first <= joined[-1].end:
            joined[-1] = Span(joined[-1].first, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return tuple(joined[:MOST_RANGES])
