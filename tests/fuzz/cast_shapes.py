"""Strategies of hypothesis for the cast: datagrams of every kind, with numbers that are there and that are not."""

import json
import struct
from typing import Any

from cast_targets import HASHES, PACKET_BYTES, RECEIVER, SESSION
from corpus import corpus
from hypothesis import strategies as st

from imager.wire.session import MAGIC, TAG_BYTES, VERSION, Kind

few = st.integers(0, 12)
small = st.one_of(few, st.integers(0, 60), st.integers(0, 0xFFFF))
large = st.one_of(few, st.integers(0, 400), st.integers(0, 2**32 - 1))


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One in eight is rare: a packet with a slip in every field comes no further than its first."""
    return st.integers(0, 7).flatmap(lambda number: usual if number else rare)


@st.composite
def heads(draw: st.DrawFn, kinds: list[Kind], field: st.SearchStrategy[int], numbers: st.SearchStrategy[int]) -> bytes:
    kind = draw(mostly(st.sampled_from(kinds), st.integers(0, 15)))
    first = draw(mostly(st.just((MAGIC, VERSION << 4 | kind)), st.tuples(*[st.integers(0, 255)] * 2)))
    session = draw(mostly(st.just(SESSION), large))
    return struct.pack(">BBHIQ", *first, draw(field), session, draw(numbers))


@st.composite
def reports(draw: st.DrawFn) -> bytes:
    return struct.pack(">8I", *(draw(large) for _ in range(8))) + bytes([draw(mostly(st.integers(0, 2), few)), 0, 0, 0])


@st.composite
def nacks(draw: st.DrawFn) -> bytes:
    records = draw(st.lists(st.tuples(large, small, small), max_size=9))
    count = draw(mostly(st.just(len(records)), small))
    return struct.pack(">HH", count, draw(mostly(st.just(0), small))) + b"".join(
        struct.pack(">IHH", *record) for record in records
    )


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    text = draw(st.one_of(st.text(max_size=20).map(str.encode), st.binary(max_size=20)))
    return bytes([draw(mostly(st.just(len(text)), st.integers(0, 255)))]) + text


bodies = st.one_of(
    reports(),
    st.builds(bytes.__add__, reports(), nacks()),
    texts(),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=80),
)
tags = mostly(st.just(bytes(TAG_BYTES)), st.binary(max_size=TAG_BYTES))
receivers = mostly(st.sampled_from([RECEIVER, RECEIVER + 1]), small)
to_sender = st.builds(
    lambda head, body, tag: head + body + tag,
    heads([Kind.JOIN, Kind.NACK, Kind.NACK, Kind.STATUS, Kind.DONE, Kind.LEAVE], receivers, large),
    bodies,
    tags,
)
_pairs = st.tuples(mostly(large, st.just(0xFFFFFFFF)), large).map(lambda pair: pair[0] << 32 | pair[1])
_data = st.builds(
    lambda head, payload: (head + payload).ljust(PACKET_BYTES, b"\0"),
    heads([Kind.SOURCE, Kind.SOURCE, Kind.REPAIR], st.one_of(st.just(0), small), _pairs),
    st.binary(max_size=40),
)
_beacons = st.builds(
    lambda head, numbers, interval, phase: head + struct.pack(">IIHB", *numbers, interval, phase),
    heads([Kind.BEACON], st.just(0), st.integers(0xFFFFFFFF << 32, 2**64 - 1)),
    st.tuples(large, large),
    small,
    mostly(st.integers(0, 3), st.integers(0, 255)),
)
_answers = st.builds(
    lambda head, kind, answer, sequence, tag: head + struct.pack(">BBHI", kind, answer, 0, sequence) + tag,
    heads([Kind.ACK], mostly(st.just(RECEIVER), small), st.integers(2**63, 2**64 - 1)),
    few,
    few,
    large,
    tags,
)
to_receiver = st.one_of(_data, _beacons, _answers)
_announcements = st.builds(
    lambda head, ports, group, name: head[:8] + struct.pack(">HH", *ports) + group + name,
    heads([Kind.ANNOUNCE, Kind.ANNOUNCE6], small, large),
    st.tuples(small, small),
    st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)),
    texts(),
)


@st.composite
def changed(draw: st.DrawFn, trees: st.SearchStrategy[Any]) -> Any:
    """JSON like one of these, with another value in one place or none."""
    tree = json.loads(json.dumps(draw(trees)))
    at: Any = tree
    while draw(st.booleans()) and isinstance(at, dict) and at:
        key = draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not draw(st.booleans()):
            at[key] = draw(others)
        at = at[key]
    return tree


others = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
_trees = [json.loads(line) for line in corpus("cast-words") if line.startswith(b"{")]
_objects = changed(st.sampled_from(_trees)).map(lambda tree: json.dumps(tree).encode())
words = st.one_of(_announcements, bodies, _objects, st.binary(max_size=60))


def framed(data: bytes, lie: int = 0) -> bytes:
    return max(0, len(data) + lie).to_bytes(4, "big") + data


_lies = mostly(st.just(0), st.integers(-4, 2**31))
_frames = st.builds(framed, mostly(st.integers(0, 3).map(lambda n: n.to_bytes(4, "big")), st.binary(max_size=9)), _lies)
_hellos = mostly(
    st.sampled_from([bytes(2), RECEIVER.to_bytes(2, "big"), b"\0\1"]).map(lambda number: b"RCF1" + number + bytes(16)),
    st.binary(max_size=22),
)
_greetings = mostly(st.just(b"RCF1\0" + bytes(16)), st.sampled_from([b"RCF1\1" + bytes(16), b"RCF2"]))
said_by_tcp = st.one_of(
    st.builds(lambda hello, frames: b"\0" + hello + b"".join(frames), _hellos, st.lists(_frames, max_size=2)),
    st.lists(_frames, max_size=5).map(lambda frames: b"\1" + b"".join(frames)),
    st.builds(
        lambda greeting, tree, lie, hashes: b"\2" + greeting + framed(tree, lie) + framed(hashes),
        _greetings,
        _objects,
        _lies,
        st.just(b"".join(HASHES)) | st.binary(max_size=40),
    ),
)
