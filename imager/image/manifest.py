"""What an image is made of: the manifest, its bytes and its signature. Pure: no I/O. See docs/image-format.md.

A manifest names every window of the source that has used bytes, the extents in use, and the BLAKE3 of these bytes;
together with the layout of the source and free facts. The header and the facts are small; the tables of chunks and
extents may have a million rows and are read and checked as numpy arrays.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from construct import Const, ConstructError, Int16ub, Int32ub, Struct
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imager.errors import ManifestError

MIB = 1 << 20
DEFAULT_WINDOW_BYTES = MIB
SMALLEST_WINDOW_BYTES = 4096
LARGEST_WINDOW_BYTES = 64 * MIB
HASH_BYTES = 32
SIGNATURE_CONTEXT = b"roomcast manifest 1\0"
"""Goes before the hash that is signed, so that a signature of ours means nothing anywhere else."""

FORMAT_VERSION = 1
_HEADER = Struct(
    "magic" / Const(b"RCMF"),
    "format_version" / Int16ub,
    "reserved" / Const(0, Int16ub),
    "facts_bytes" / Int32ub,
    "chunk_count" / Int32ub,
    "extent_count" / Int32ub,
)
_HEADER_BYTES = _HEADER.sizeof()
_CHUNK = np.dtype(
    [("hash", np.uint8, (HASH_BYTES,)), ("window", ">u4"), ("extents", ">u4"), ("raw", ">u4"), ("stored", ">u4")]
)
_EXTENT = np.dtype([("offset", ">u4"), ("length", ">u4")])
_TRAILER_MAGIC = b"RCSG"
_TRAILER_BYTES = 4 + 32 + 64
_LARGEST_FACTS_BYTES = 4 * MIB
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LARGEST_SOURCE_BYTES = 1 << 62

_Array = npt.NDArray[Any]


class ImageKind(StrEnum):
    """What the windows are windows of."""

    SECTOR = "sector"
    """A disk or a volume; only used blocks are kept."""
    FILE = "file"
    """One file (a WIM): every byte is used."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of used bytes, absolute in the source."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The used bytes of one window, concatenated in order of offset (`raw`), and how they are stored."""

    window: int
    """Number of the window: offset in the source / window_bytes."""
    extents: tuple[Extent, ...]
    hash: bytes
    """BLAKE3 of the raw bytes."""
    raw_bytes: int
    stored_bytes: int
    """Length of the zstd frame of the raw bytes; 0 in an unsigned manifest means `as the store holds it`."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of the source."""

    number: int
    start_bytes: int
    size_bytes: int
    type: str
    """GUID of the type (GPT, lower case) or its hexadecimal number (MBR)."""
    name: str
    uuid: str
    """Of the partition, not of its file system; lower case."""
    filesystem: str
    """As blkid names it; empty when it knows none."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of an image. Immutable; `body()` is its only serial form, so equal manifests have equal bytes."""

    name: str
    """[a-z0-9][a-z0-9._-]{0,62}"""
    version: int
    """From 1; 0 in a manifest that is not yet published."""
    kind: ImageKind
    created_s: int
    """Unix time."""
    source_bytes: int
    sector_bytes: int
    """Logical sector of the source; 1 for a file."""
    window_bytes: int
    layout: tuple[Partition, ...]
    table: str
    """gpt, dos or none."""
    facts: dict[str, str]
    chunks: tuple[Chunk, ...]
    """In order of their windows; windows without used bytes have none."""

    def body(self) -> bytes:
        """The unsigned bytes. Raises ManifestError when a value is out of its range."""
        return _build_body(self)

    @property
    def hash(self) -> bytes:
        """BLAKE3 of `body()`: the identity of this version."""
        return blake3(self.body()).digest()

    @property
    def used_bytes(self) -> int:
        """Sum of the raw bytes of all chunks."""
        return sum(chunk.raw_bytes for chunk in self.chunks)

    @property
    def stored_lengths(self) -> list[int]:
        """Stored bytes of each chunk, in order: what a cast of this image sends."""
        return [chunk.stored_bytes for chunk in self.chunks]


def check_name(name: str) -> str:
    """Return `name` when it can name an image; else raise ManifestError that says what a name is."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ManifestError(
            f"image name {name!r}: use 1 to 63 of a-z, 0-9, dot, dash and underscore, the first a letter or a digit"
        )
    return name


def build_signed(manifest: Manifest, private_key: Ed25519PrivateKey) -> bytes:
    """The body, the signer's public key and the Ed25519 signature of the body's hash."""
    body = manifest.body()
    if manifest.version < 1:
        raise ManifestError("a manifest is signed with its version; this one has none")
    if any(chunk.stored_bytes == 0 for chunk in manifest.chunks):
        raise ManifestError("a manifest is signed with the stored length of every chunk; one has none")
    public = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return body + _TRAILER_MAGIC + public + private_key.sign(SIGNATURE_CONTEXT + blake3(body).digest())


def parse_signed(data: bytes, public_key: bytes | None) -> Manifest:
    """Check the signature, then parse. `public_key`: 32 raw bytes of the only signer that is believed.

    With None the signature must hold under the key in the data itself: that finds damage, not forgery.
    """
    body, trailer = data[:-_TRAILER_BYTES], data[-_TRAILER_BYTES:]
    if len(data) < _HEADER_BYTES + _TRAILER_BYTES or trailer[:4] != _TRAILER_MAGIC:
        raise ManifestError("the manifest has no signature")
    signer, signature = trailer[4:36], trailer[36:]
    if public_key is not None and signer != public_key:
        raise ManifestError(
            f"the manifest is signed by key {signer.hex()[:16]}..., but {public_key.hex()[:16]}... is expected"
        )
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, SIGNATURE_CONTEXT + blake3(body).digest())
    except (InvalidSignature, ValueError) as error:
        raise ManifestError("the manifest's signature does not hold: it was changed after it was signed") from error
    manifest = parse_unsigned(body)
    if manifest.version < 1 or any(chunk.stored_bytes == 0 for chunk in manifest.chunks):
        raise ManifestError("the manifest is signed but was never published")
    return manifest


def parse_unsigned(data: bytes) -> Manifest:
    """Parse and check a body. Raises ManifestError and nothing else; what parses has `body() == data`."""
    try:
        header = _HEADER.parse(data)
    except ConstructError as error:
        raise ManifestError("not a manifest of Roomcast") from error
    if header.format_version != FORMAT_VERSION:
        raise ManifestError(f"manifest format {header.format_version} is not known; this program knows 1")
    chunk_end = _HEADER_BYTES + header.facts_bytes + header.chunk_count * _CHUNK.itemsize
    if header.facts_bytes > _LARGEST_FACTS_BYTES or len(data) != chunk_end + header.extent_count * _EXTENT.itemsize:
        raise ManifestError(f"the manifest is {len(data)} bytes long, its header says otherwise")
    facts_text = bytes(data[_HEADER_BYTES : _HEADER_BYTES + header.facts_bytes])
    fields = _parse_facts(facts_text)
    chunks = np.frombuffer(data, _CHUNK, header.chunk_count, _HEADER_BYTES + header.facts_bytes)
    extents = np.frombuffer(data, _EXTENT, header.extent_count, chunk_end)
    _check_tables(chunks, extents, fields["source_bytes"], fields["window_bytes"])
    manifest = Manifest(chunks=_chunk_objects(chunks, extents, fields["window_bytes"]), **fields)
    if _build_facts(manifest) != facts_text:
        raise ManifestError("the manifest's facts are not in their canonical form")
    return manifest


def _build_body(manifest: Manifest) -> bytes:
    facts = _build_facts(manifest)
    _parse_facts(facts)  # the same rules for what we write and what we read
    count = len(manifest.chunks)
    chunks = np.zeros(count, _CHUNK)
    window_bytes = manifest.window_bytes
    places = [(chunk.window * window_bytes, extent) for chunk in manifest.chunks for extent in chunk.extents]
    extents = np.zeros(len(places), _EXTENT)
    hashes = b"".join(chunk.hash for chunk in manifest.chunks)
    if len(hashes) != count * HASH_BYTES:
        raise ManifestError("a chunk's hash is not 32 bytes long")
    chunks["hash"] = np.frombuffer(hashes, np.uint8).reshape(count, HASH_BYTES)
    chunks["window"] = _column([chunk.window for chunk in manifest.chunks])
    chunks["extents"] = _column([len(chunk.extents) for chunk in manifest.chunks])
    chunks["raw"] = _column([chunk.raw_bytes for chunk in manifest.chunks])
    chunks["stored"] = _column([chunk.stored_bytes for chunk in manifest.chunks])
    extents["offset"] = _column([extent.offset - base for base, extent in places])
    extents["length"] = _column([extent.length for _, extent in places])
    _check_tables(chunks, extents, manifest.source_bytes, window_bytes)
    header = {"format_version": FORMAT_VERSION, "facts_bytes": len(facts)}
    built: bytes = _HEADER.build({**header, "chunk_count": count, "extent_count": len(extents)})
    return built + facts + chunks.tobytes() + extents.tobytes()


def _column(values: list[int]) -> _Array:
    """As 64-bit numbers that fit 32: numpy would wrap a larger one around without a word."""
    try:
        column = np.array(values, np.int64)
    except OverflowError as error:
        raise ManifestError("a chunk does not fit the manifest's format") from error
    if len(column) and (int(column.min()) < 0 or int(column.max()) >= 1 << 32):
        raise ManifestError("an extent lies outside its window, or a chunk does not fit the manifest's format")
    return column


def _check_tables(chunks: _Array, extents: _Array, source_bytes: int, window_bytes: int) -> None:
    window = chunks["window"].astype(np.int64)
    count = chunks["extents"].astype(np.int64)
    raw = chunks["raw"].astype(np.int64)
    stored = chunks["stored"].astype(np.int64)
    offset = extents["offset"].astype(np.int64)
    length = extents["length"].astype(np.int64)
    if int(count.sum()) != len(extents) or np.any(count < 1):
        raise ManifestError("the manifest's chunks and extents do not fit together")
    if len(chunks) == 0:
        return
    if np.any(window[1:] <= window[:-1]) or int(window[-1]) * window_bytes >= source_bytes:
        raise ManifestError("the manifest's windows are out of order or beyond the end of the source")
    window_length = np.minimum(window_bytes, source_bytes - window * window_bytes)
    first = np.cumsum(count) - count
    end = offset + length
    follows = np.ones(len(extents), bool)
    follows[first] = False
    if np.any(length < 1) or np.any(end > np.repeat(window_length, count)):
        raise ManifestError("an extent lies outside its window")
    if np.any(offset[1:][follows[1:]] <= end[:-1][follows[1:]]):
        raise ManifestError("the extents of a chunk overlap, touch or are out of order")
    if np.any(np.add.reduceat(length, first) != raw):
        raise ManifestError("a chunk's length is not the sum of its extents")
    if np.any(stored > raw + raw // 64 + 4096):
        raise ManifestError("a chunk is stored in more bytes than compression can make of it")


def _chunk_objects(chunks: _Array, extents: _Array, window_bytes: int) -> tuple[Chunk, ...]:
    counts = chunks["extents"].astype(np.int64)
    bases = np.repeat(chunks["window"].astype(np.int64) * window_bytes, counts)
    offsets = (extents["offset"].astype(np.int64) + bases).tolist()
    places = list(map(Extent, offsets, extents["length"].tolist()))
    hashes = np.ascontiguousarray(chunks["hash"]).tobytes()
    built: list[Chunk] = []
    at = 0
    rows = zip(
        chunks["window"].tolist(), counts.tolist(), chunks["raw"].tolist(), chunks["stored"].tolist(), strict=True
    )
    for i, (window, count, raw, stored) in enumerate(rows):
        digest = hashes[i * HASH_BYTES : (i + 1) * HASH_BYTES]
        built.append(Chunk(window, tuple(places[at : at + count]), digest, raw, stored))
        at += count
    return tuple(built)


_PARTITION_FIELDS = {
    "number": int,
    "start_bytes": int,
    "size_bytes": int,
    "type": str,
    "name": str,
    "uuid": str,
    "filesystem": str,
}
_FIELDS = {
    "name": str,
    "version": int,
    "kind": str,
    "created_s": int,
    "source_bytes": int,
    "sector_bytes": int,
    "window_bytes": int,
    "layout": list,
    "table": str,
    "facts": dict,
}


def _build_facts(manifest: Manifest) -> bytes:
    tree = {field: getattr(manifest, field) for field in _FIELDS}
    tree["kind"] = str(manifest.kind)
    tree["layout"] = [{f: getattr(partition, f) for f in _PARTITION_FIELDS} for partition in manifest.layout]
    try:
        return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ManifestError(f"a fact of the manifest cannot be written: {error}") from error


def _parse_facts(text: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the manifest's facts are not JSON: {error}") from error
    fields = _typed(tree, _FIELDS, "manifest")
    layout = tuple(
        Partition(**_typed(row, _PARTITION_FIELDS, f"partition {i}")) for i, row in enumerate(fields["layout"])
    )
    facts = fields["facts"]
    for key, value in facts.items():
        _typed({"key": key, "value": value}, {"key": str, "value": str}, "facts")
    check_name(fields["name"])
    try:
        kind = ImageKind(fields["kind"])
    except ValueError as error:
        raise ManifestError(f"image kind {fields['kind']!r} is not known") from error
    if fields["table"] not in ("gpt", "dos", "none"):
        raise ManifestError(f"partition table {fields['table']!r} is not known")
    _in_range("version", fields["version"], 0, 1 << 31)
    _in_range("created_s", fields["created_s"], 0, 1 << 40)
    _in_range("source_bytes", fields["source_bytes"], 0, _LARGEST_SOURCE_BYTES)
    _in_range("sector_bytes", fields["sector_bytes"], 1, 1 << 16)
    _in_range("window_bytes", fields["window_bytes"], SMALLEST_WINDOW_BYTES, LARGEST_WINDOW_BYTES)
    if fields["window_bytes"] % SMALLEST_WINDOW_BYTES:
        raise ManifestError("window_bytes is not a multiple of 4096")
    if fields["source_bytes"] > fields["window_bytes"] << 32:
        raise ManifestError("the source has more windows than a manifest can number")
    for partition in layout:
        _in_range("partition number", partition.number, 1, 1 << 16)
        _in_range("partition start", partition.start_bytes, 0, fields["source_bytes"])
        _in_range("partition size", partition.size_bytes, 0, fields["source_bytes"] - partition.start_bytes)
    return {**fields, "kind": kind, "layout": layout, "facts": facts}


def _typed(tree: Any, fields: dict[str, type], where: str) -> dict[str, Any]:
    if not isinstance(tree, dict) or tree.keys() != fields.keys():
        raise ManifestError(f"{where}: the fields are not those of this format")
    for field, kind in fields.items():
        value = tree[field]
        if type(value) is not kind:
            raise ManifestError(f"{where}: {field} is not of type {kind.__name__}")
        if isinstance(value, str) and not _is_text(value):
            raise ManifestError(f"{where}: {field} is not text")
    return tree


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can carry it, a terminal cannot print it
        return False
    return True


def _in_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ManifestError(f"{what} {value} is not in {low} to {high}")
