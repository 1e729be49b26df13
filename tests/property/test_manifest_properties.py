"""Manifests of any shape: read as written; of any bytes: a manifest whose body is these bytes, or ManifestError."""

from hypothesis import given
from hypothesis import strategies as st

from imager.errors import ManifestError
from imager.image.extents import cut_windows, merge_extents
from imager.image.manifest import Chunk, Extent, ImageKind, Manifest, Partition, parse_unsigned

WINDOW = 4096
WINDOWS = 40
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """With extents as captures make them: any ranges, merged and cut."""
    source = draw(st.integers(0, WINDOW * WINDOWS))
    ranges = draw(st.lists(st.tuples(st.integers(0, WINDOW * WINDOWS), st.integers(1, 3 * WINDOW)), max_size=30))
    chunks = []
    for window, extents in cut_windows(merge_extents(ranges, source), WINDOW):
        raw = sum(extent.length for extent in extents)
        stored = draw(st.integers(0, raw + 4096))
        chunks.append(Chunk(window, extents, draw(st.binary(min_size=32, max_size=32)), raw, stored))
    start = draw(st.integers(0, source))
    layout = (Partition(1, start, draw(st.integers(0, source - start)), draw(text), draw(text), "", "ext4"),)
    return Manifest(
        name=draw(st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")),
        version=draw(st.integers(0, 1 << 31)),
        kind=draw(st.sampled_from(ImageKind)),
        created_s=draw(st.integers(0, 1 << 40)),
        source_bytes=source,
        sector_bytes=draw(st.sampled_from([1, 512, 4096])),
        window_bytes=WINDOW,
        layout=layout if draw(st.booleans()) else (),
        table=draw(st.sampled_from(["gpt", "dos", "none"])),
        facts=draw(st.dictionaries(text, text, max_size=5)),
        chunks=tuple(chunks),
    )


@given(manifests())
def test_what_is_written_is_read(manifest: Manifest) -> None:
    assert parse_unsigned(manifest.body()) == manifest


def accepted_or_refused(data: bytes) -> None:
    try:
        manifest = parse_unsigned(data)
    except ManifestError:
        return
    assert manifest.body() == data


@given(st.binary(max_size=400))
def test_any_bytes_are_a_manifest_or_an_error_of_ours(data: bytes) -> None:
    accepted_or_refused(data)
    accepted_or_refused(b"RCMF\0\1\0\0" + data)


@given(manifests(), st.data())
def test_a_damaged_manifest_is_another_manifest_or_an_error_of_ours(manifest: Manifest, data: st.DataObject) -> None:
    body = bytearray(manifest.body())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    accepted_or_refused(bytes(body))


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 900)), max_size=20), st.sampled_from([1, 8, 512]))
def test_merged_extents_cover_the_same_bytes(ranges: list[tuple[int, int]], align: int) -> None:
    size = 4096
    covered = set()
    for offset, length in ranges:
        if length:
            end = -(-(offset + length) // align) * align
            covered |= set(range(offset // align * align, min(end, size)))
    merged = merge_extents(ranges, size, align)
    assert [at for extent in merged for at in range(extent.offset, extent.offset + extent.length)] == sorted(covered)
    cut = [extent for _, extents in cut_windows(merged, 1000) for extent in extents]
    assert merge_extents([(e.offset, e.length) for e in cut], size) == merged
    assert all(e.offset // 1000 == (e.offset + e.length - 1) // 1000 for e in cut)
    assert all(isinstance(e, Extent) for e in cut)
