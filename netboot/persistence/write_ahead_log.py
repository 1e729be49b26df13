"""Whether an SQLite write-ahead log has lost commits. Reads the file, changes nothing.

SQLite takes a log up to its first frame that does not fit its checksum and forgets the rest: right after a power cut,
where that is the commit that was being written. After damage in the middle it forgets, in silence, commits that had
been on the disk. Source: SQLite's file format, section 4, "The Write-Ahead Log".
"""

import struct
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_WORD = 0xFFFFFFFF


def lost_commits(path: Path) -> str:
    """What is wrong with the log of a database that nobody has open; empty: nothing, or there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    if len(data) < _HEADER.size:
        return ""  # made and not yet written, or emptied
    magic, _, page_bytes, _, salt_1, salt_2, check_1, check_2 = _HEADER.unpack_from(data)
    order = _MAGIC.get(magic)
    if order is None or _checksum(data[: _HEADER.size - 8], order, (0, 0)) != (check_1, check_2):
        # The header is on the disk before the first frame is written.
        return "the head of its write-ahead log is not as it was written" if len(data) > _HEADER.size else ""
    if not 512 <= page_bytes <= 65536:
        return "its write-ahead log has impossible pages"
    running = (check_1, check_2)
    bad = False
    """From the first frame on that does not fit."""
    ended = False
    """A commit ended behind it: that one was whole before whatever follows was begun."""
    for at in range(_HEADER.size, len(data) - _FRAME.size - page_bytes + 1, _FRAME.size + page_bytes):
        _, size_after, frame_salt_1, frame_salt_2, check_1, check_2 = _FRAME.unpack_from(data, at)
        is_ours = (frame_salt_1, frame_salt_2) == (salt_1, salt_2)
        if not bad and is_ours:
            running = _checksum(data[at : at + 8], order, running)
            page = at + _FRAME.size
            running = _checksum(data[page : page + page_bytes], order, running)
        if not is_ours or running != (check_1, check_2):
            bad = True
        if bad and is_ours:
            if ended:
                return "its write-ahead log is damaged in the middle"
            ended = size_after != 0
    return ""


def _checksum(data: bytes, order: str, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & _WORD
        second = (second + odd + first) & _WORD
    return first, second
