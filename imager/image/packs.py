"""Packs: immutable files of stored chunks, named by their BLAKE3, and the index of a directory of them.

A pack describes itself: its chunks, then one entry a chunk, then a trailer. So an index can be rebuilt from packs
alone. Entries carry a check of the stored bytes, so that a reader finds a flipped bit without decompressing.
See docs/image-format.md.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from construct import Const, ConstructError, Int16ub, Int32ub, Struct

from imager.errors import StoreError

PACK_BYTES = 32 << 20
"""A pack is closed when it holds this much."""
PACK_SUFFIX = ".pack"
INDEX_NAME = "index"
CHECK_BYTES = 16

_PACK_HEAD = b"RCPK\0\1\0\0"
_PACK_TRAILER = Struct("count" / Int32ub, "entries_check" / Int32ub, "magic" / Const(b"RCPE"))
_ENTRY = np.dtype(
    [
        ("hash", np.uint8, (32,)),
        ("check", np.uint8, (CHECK_BYTES,)),
        ("offset", ">u8"),
        ("stored", ">u4"),
        ("raw", ">u4"),
    ]
)
_INDEX_HEADER = Struct("magic" / Const(b"RCIX"), "version" / Const(1, Int16ub), "reserved" / Const(0, Int16ub))
_INDEX_PACK = Struct("count" / Int32ub)


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One chunk in a pack."""

    hash: bytes
    """BLAKE3 of the raw bytes."""
    check: bytes
    """First 16 bytes of the BLAKE3 of the stored bytes."""
    offset: int
    stored_bytes: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class StoredAt:
    """Where a chunk is."""

    pack: Path
    entry: PackEntry


def check_of(stored: bytes | memoryview) -> bytes:
    """What an entry keeps to find damage in stored bytes."""
    return blake3(stored).digest()[:CHECK_BYTES]


class PackWriter:
    """Writes one pack under a temporary name in `directory`; `close` gives it its own. Not safe across threads."""

    def __init__(self, directory: Path, number: int) -> None:
        self._directory = directory
        self._path = directory / f"{number}.writing"
        self._file = self._path.open("xb", buffering=0)
        self._hasher = blake3()
        self._size = 0
        self.entries: list[PackEntry] = []
        self._write(_PACK_HEAD)

    @property
    def path(self) -> Path:
        """The file that holds the chunks until `close`."""
        return self._path

    @property
    def is_full(self) -> bool:
        """True when it is time to close this pack and begin another."""
        return self._size >= PACK_BYTES

    def add(self, chunk_hash: bytes, stored: bytes | memoryview, raw_bytes: int) -> PackEntry:
        """Append a chunk."""
        entry = PackEntry(chunk_hash, check_of(stored), self._size, len(stored), raw_bytes)
        self._write(stored)
        self.entries.append(entry)
        return entry

    def close(self) -> Path:
        """Write entries and trailer and rename the file to its hash. It is not yet flushed to disk: see fsync_file."""
        table = _entries_bytes(self.entries)
        self._write(table)
        self._write(_PACK_TRAILER.build({"count": len(self.entries), "entries_check": _table_check(table)}))
        self._file.close()
        final = self._directory / (self._hasher.hexdigest() + PACK_SUFFIX)
        self._path.rename(final)
        return final

    def abandon(self) -> None:
        """Close the descriptor; the caller removes the directory."""
        self._file.close()

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hasher.update(data)
        self._size += len(data)


def read_entries(pack: Path) -> list[PackEntry]:
    """The entries of a pack from its own end. Raises StoreError when it is truncated or not a pack."""
    try:
        with pack.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            trailer_bytes = _PACK_TRAILER.sizeof()
            trailer = _PACK_TRAILER.parse(os.pread(file.fileno(), trailer_bytes, max(0, size - trailer_bytes)))
            start = size - trailer_bytes - trailer.count * _ENTRY.itemsize
            if start < len(_PACK_HEAD) or os.pread(file.fileno(), len(_PACK_HEAD), 0) != _PACK_HEAD:
                raise StoreError(f"pack {pack} is damaged: its head or its length is wrong")
            table = os.pread(file.fileno(), trailer.count * _ENTRY.itemsize, start)
    except FileNotFoundError as error:
        raise StoreError(f"pack {pack} is missing") from error
    except OSError as error:
        raise StoreError(f"pack {pack} cannot be read: {error}") from error
    except ConstructError as error:
        raise StoreError(f"pack {pack} is truncated: its trailer is not there") from error
    if _table_check(table) != trailer.entries_check:
        raise StoreError(f"pack {pack} is damaged: its entries were changed")
    return _entries_objects(np.frombuffer(table, _ENTRY))


def read_stored(place: StoredAt) -> bytes:
    """The stored bytes of a chunk, checked. Raises StoreError that names the pack."""
    try:
        with place.pack.open("rb", buffering=0) as file:
            stored = os.pread(file.fileno(), place.entry.stored_bytes, place.entry.offset)
    except FileNotFoundError as error:
        raise StoreError(f"pack {place.pack} is missing") from error
    except OSError as error:
        raise StoreError(f"pack {place.pack} cannot be read: {error}") from error
    if len(stored) != place.entry.stored_bytes:
        raise StoreError(f"pack {place.pack} is truncated: chunk {place.entry.hash.hex()[:16]} is not whole")
    if check_of(stored) != place.entry.check:
        raise StoreError(f"pack {place.pack} is damaged: the bytes of chunk {place.entry.hash.hex()[:16]} changed")
    return stored


def build_index(packs: Sequence[tuple[str, list[PackEntry]]]) -> bytes:
    """The index of one directory: (pack's hash in hexadecimal, its entries) for each pack."""
    parts = [_INDEX_HEADER.build({})]
    for name, entries in packs:
        parts += [bytes.fromhex(name), _INDEX_PACK.build({"count": len(entries)}), _entries_bytes(entries)]
    body = b"".join(parts)
    return body + blake3(body).digest()


def parse_index(data: bytes) -> list[tuple[str, list[PackEntry]]]:
    """Inverse of build_index. Raises StoreError when a byte was changed."""
    body = data[:-32]
    packs: list[tuple[str, list[PackEntry]]] = []
    try:
        if blake3(body).digest() != data[-32:]:
            raise StoreError("the index is damaged")
        _INDEX_HEADER.parse(body)
        at = _INDEX_HEADER.sizeof()
        while at < len(body):
            name, count = body[at : at + 32].hex(), _INDEX_PACK.parse(body[at + 32 :][:4]).count
            packs.append((name, _entries_objects(np.frombuffer(body, _ENTRY, count, at + 36))))
            at += 36 + count * _ENTRY.itemsize
    except (ConstructError, ValueError) as error:
        raise StoreError(f"the index is of another format: {error}") from error
    return packs


def load_index(directory: Path) -> list[tuple[str, list[PackEntry]]]:
    """The index of `directory`: from its file, or from the packs themselves when the file is damaged or gone.

    Packs that cannot be read are left out; `verify` names them.
    """
    try:
        return parse_index((directory / INDEX_NAME).read_bytes())
    except (OSError, StoreError):
        return rebuild_index(directory)


def rebuild_index(directory: Path) -> list[tuple[str, list[PackEntry]]]:
    """What the packs in `directory` say of themselves."""
    packs = []
    for pack in sorted(directory.glob("*" + PACK_SUFFIX)):
        try:
            packs.append((pack.name.removesuffix(PACK_SUFFIX), read_entries(pack)))
        except StoreError:
            continue
    return packs


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's bytes, hexadecimal."""
    hasher = blake3()
    with path.open("rb", buffering=0) as file:
        while block := file.read(4 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries_bytes(entries: Iterable[PackEntry]) -> bytes:
    rows = list(entries)
    table = np.zeros(len(rows), _ENTRY)
    if rows:
        table["hash"] = np.frombuffer(b"".join(row.hash for row in rows), np.uint8).reshape(-1, 32)
        table["check"] = np.frombuffer(b"".join(row.check for row in rows), np.uint8).reshape(-1, CHECK_BYTES)
        table["offset"] = [row.offset for row in rows]
        table["stored"] = [row.stored_bytes for row in rows]
        table["raw"] = [row.raw_bytes for row in rows]
    return table.tobytes()


def _entries_objects(table: npt.NDArray[Any]) -> list[PackEntry]:
    hashes = np.ascontiguousarray(table["hash"]).tobytes()
    checks = np.ascontiguousarray(table["check"]).tobytes()
    numbers = zip(table["offset"].tolist(), table["stored"].tolist(), table["raw"].tolist(), strict=True)
    return [
        PackEntry(hashes[i * 32 : i * 32 + 32], checks[i * CHECK_BYTES : (i + 1) * CHECK_BYTES], *row)
        for i, row in enumerate(numbers)
    ]


def _table_check(table: bytes) -> int:
    return int.from_bytes(blake3(table).digest()[:4], "big")
