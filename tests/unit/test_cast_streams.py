"""A stream as the source and as the end of a file cast."""

import os
import random
import threading
from pathlib import Path

import pytest

from imager.errors import TargetError
from imager.transport.file_sink import StreamSink
from imager.transport.file_source import FileChunks, Spool

CONTENT = random.Random(4).randbytes(1_000_003)
CHUNK_BYTES = 70_000


def chunks() -> list[tuple[int, bytes]]:
    """In an order of chance, each with its place."""
    starts = list(range(0, len(CONTENT), CHUNK_BYTES))
    random.Random(5).shuffle(starts)
    return [(start, CONTENT[start : start + CHUNK_BYTES]) for start in starts]


def test_chunks_of_any_order_leave_in_theirs(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    got = bytearray()

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            while data := pipe.read(4096):
                got.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with StreamSink(writing, len(CONTENT), CHUNK_BYTES, tmp_path) as sink:
        for at, data in chunks():
            sink.write(data, at)
        sink.publish()
        sink.drain()
    os.close(writing)
    reader.join()
    assert got == CONTENT
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_an_empty_stream(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with StreamSink(writing, 0, CHUNK_BYTES, tmp_path) as sink:
        sink.publish()
        sink.drain()
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_reader_that_went_away_is_told(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with StreamSink(writing, len(CONTENT), CHUNK_BYTES, tmp_path) as sink, pytest.raises(TargetError, match="no more"):
        for at, data in sorted(chunks()):
            sink.write(data, at)
        sink.publish()
        sink.drain()
    os.close(writing)


def test_spooled_stream_is_read_by_other_processes_and_leaves_no_file(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, CONTENT[:50_000]), os.close(writing)))
    writer.start()
    with Spool(reading, tmp_path) as path:
        assert not list(tmp_path.iterdir())
        assert path.stat().st_size == 50_000
        source = FileChunks(path, 50_000, 20_000)
        data = bytearray(50_000)
        for at, index in ((0, 0), (20_000, 1), (40_000, 2)):
            source.read_into(index, memoryview(data)[at : at + source.stored_lengths[index]])
        assert data == CONTENT[:50_000]
    writer.join()
    os.close(reading)
