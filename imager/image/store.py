"""The image store: a directory of image versions, each whole or not there. See docs/image-format.md.

    ROOT/versions/NAME/VERSION/{manifest, index, PACK.pack...}
    ROOT/writing/RANDOM/...     captures under way; each holds a lock, so the next writer removes the dead ones

A version is published by one rename of its directory, after everything in it was flushed: a reader, in this process
or another, sees all of it or nothing. A version holds the packs of the chunks that no version before it held.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imager.errors import ChunkError, ManifestError, StoreError, UnknownImage
from imager.image.chunks import Decompressor
from imager.image.keys import public_key_bytes
from imager.image.locks import LOCK_NAME, lock_directory, locked, remove_dead
from imager.image.manifest import Chunk, ImageKind, Manifest, build_signed, check_name, parse_signed
from imager.image.ownership import belong_to_parent, hand_over
from imager.image.packs import (
    INDEX_NAME,
    PACK_SUFFIX,
    PackEntry,
    PackWriter,
    StoredAt,
    build_index,
    fsync_path,
    load_index,
    read_stored,
)

if TYPE_CHECKING:
    from imager.image.verify import VerifyReport

MANIFEST_NAME = "manifest"


@dataclass(frozen=True, slots=True)
class Summary:
    """One version of an image, in short."""

    name: str
    version: int
    kind: ImageKind
    created_s: int
    source_bytes: int
    used_bytes: int
    """Raw bytes of all chunks."""
    stored_bytes: int
    """Compressed bytes of all chunks: what a cast to blank machines sends."""
    chunk_count: int
    table: str
    manifest_hash: str
    """Hexadecimal."""
    facts: dict[str, str]


class ImageStore:
    """Images in a directory. Safe from several threads and beside other processes that read or write it.

    `signing_key` None: read only. `public_key` None: that of `signing_key`; with neither, signatures are only checked
    against the key that each manifest carries.
    """

    def __init__(
        self, root: Path, signing_key: Ed25519PrivateKey | None = None, public_key: bytes | None = None
    ) -> None:
        self.root = root
        self.signing_key = signing_key
        if public_key is None and signing_key is not None:
            public_key = public_key_bytes(signing_key)
        self.public_key = public_key
        self._lock = threading.Lock()
        self._indexed: set[tuple[str, int]] = set()
        self._places: dict[bytes, tuple[StoredAt, ...]] = {}
        self._summaries: dict[tuple[str, int, int], Summary] = {}

    @property
    def versions_root(self) -> Path:
        """The directory of what is published."""
        return self.root / "versions"

    def images(self) -> list[Summary]:
        """Every version of every image, by name and version. One with a damaged manifest is left out."""
        summaries = []
        for name, version in self._published():
            with contextlib.suppress(ManifestError, StoreError):
                summaries.append(self._summary(name, version))
        return summaries

    def manifest(self, name: str, version: int | None = None) -> Manifest:
        """The manifest, its signature checked. `version` None: the newest. Raises UnknownImage, ManifestError."""
        number = self.newest_version(name) if version is None else version
        manifest = parse_signed(self.signed_manifest(name, number), self.public_key)
        if (manifest.name, manifest.version) != (name, number):
            raise ManifestError(f"the manifest of {name} version {number} is that of another image")
        return manifest

    def signed_manifest(self, name: str, version: int) -> bytes:
        """The manifest's bytes with their signature, as an agent gets them."""
        try:
            return (self.version_directory(name, version) / MANIFEST_NAME).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UnknownImage(self._unknown(name, version)) from error
        except OSError as error:
            raise StoreError(f"the manifest of {name} version {version} cannot be read: {error}") from error

    def newest_version(self, name: str) -> int:
        """Number of the newest version. Raises UnknownImage."""
        versions = self._versions(name)
        if not versions:
            raise UnknownImage(self._unknown(name, None))
        return versions[-1]

    def version_directory(self, name: str, version: int) -> Path:
        """Where a version is, or would be. Raises UnknownImage for what cannot be a name."""
        try:
            return self.versions_root / check_name(name) / str(int(version))
        except ManifestError as error:
            raise UnknownImage(str(error)) from error

    def has(self, chunk_hash: bytes) -> bool:
        """Whether a published version holds this chunk. Another process's newest may not be known until `refresh`."""
        with self._lock:
            return chunk_hash in self._places

    def locate(self, chunk_hash: bytes) -> tuple[StoredAt, ...]:
        """Where a chunk is: one place, or more when a damaged pack made a later capture store it again.

        Raises StoreError when no pack has it.
        """
        places = self._known(chunk_hash)
        if not places:
            self.refresh()
            places = self._known(chunk_hash)
        if not places:
            raise StoreError(f"chunk {chunk_hash.hex()[:16]} is in no pack of {self.root}; run `roomcast image verify`")
        return places

    def read_stored(self, chunk_hash: bytes) -> bytes:
        """A chunk's stored bytes, checked against their pack's entry. Raises StoreError that names the pack."""
        return read_first_sound(self.locate(chunk_hash))

    def refresh(self) -> None:
        """Learn the packs of versions that were published since."""
        for name, version in self._published():
            with self._lock:
                known = (name, version) in self._indexed
            if not known:
                directory = self.version_directory(name, version)
                self._learn(name, version, directory, load_index(directory))

    def verify(self, name: str, version: int | None = None) -> "VerifyReport":
        """Read every chunk of a version and name what is hit: see imager.image.verify.verify_image."""
        from imager.image.verify import verify_image

        return verify_image(self, name, version)

    def writer(self) -> "StoreWriter":
        """A capture or an import: use it as a context manager. Raises StoreError when the store cannot be written."""
        if self.signing_key is None:
            raise StoreError(f"the image store {self.root} is open for reading only: no signing key")
        self.refresh()
        return StoreWriter(self, self.signing_key)

    def _known(self, chunk_hash: bytes) -> tuple[StoredAt, ...]:
        with self._lock:
            return self._places.get(chunk_hash, ())

    def _learn(self, name: str, version: int, directory: Path, packs: list[tuple[str, list[PackEntry]]]) -> None:
        with self._lock:
            if (name, version) in self._indexed:
                return
            for pack, entries in packs:
                path = directory / (pack + PACK_SUFFIX)
                for entry in entries:
                    self._places[entry.hash] = (*self._places.get(entry.hash, ()), StoredAt(path, entry))
            self._indexed.add((name, version))

    def _versions(self, name: str) -> list[int]:
        try:
            directory = self.version_directory(name, 1).parent
            return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _published(self) -> list[tuple[str, int]]:
        try:
            names = sorted(path.name for path in self.versions_root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"the image store {self.root} cannot be read: {error}") from error
        found = []
        for name in names:
            with contextlib.suppress(UnknownImage):
                found += [(name, version) for version in self._versions(name)]
        return found

    def _summary(self, name: str, version: int) -> Summary:
        try:
            stat = (self.version_directory(name, version) / MANIFEST_NAME).stat()
        except OSError as error:
            raise UnknownImage(self._unknown(name, version)) from error
        key = (name, version, stat.st_mtime_ns)
        if key not in self._summaries:
            manifest = self.manifest(name, version)
            self._summaries[key] = Summary(
                name,
                version,
                manifest.kind,
                manifest.created_s,
                manifest.source_bytes,
                manifest.used_bytes,
                sum(manifest.stored_lengths),
                len(manifest.chunks),
                manifest.table,
                manifest.hash.hex(),
                manifest.facts,
            )
        return self._summaries[key]

    def _unknown(self, name: str, version: int | None) -> str:
        versions = self._versions(name) if version is not None else []
        if versions:
            return f"image {name} has no version {version}; it has {', '.join(map(str, versions))}"
        return f"there is no image {name}; `roomcast image list` shows those that there are"


class StoreWriter:
    """One new version in the making. Its methods may be called from several threads.

    Leaving the context without `publish` removes everything that was put.
    """

    def __init__(self, store: ImageStore, signing_key: Ed25519PrivateKey) -> None:
        self._store = store
        self._key = signing_key
        self._lock = threading.Lock()
        self._pack: PackWriter | None = None
        self._packs: list[tuple[str, list[PackEntry]]] = []
        self._mine: dict[bytes, PackEntry] = {}
        self._sound: dict[bytes, PackEntry] = {}
        self._finished = False
        self._failure = ""
        try:
            writing = store.root / "writing"
            writing.mkdir(parents=True, exist_ok=True)
            store.versions_root.mkdir(exist_ok=True)
            for made in (store.root, writing, store.versions_root):
                belong_to_parent(made)
            with locked(store.root / "writers.lock"):
                remove_dead(writing)
                self.directory = Path(tempfile.mkdtemp(dir=writing))
                belong_to_parent(self.directory)
                self._living = lock_directory(self.directory)
        except OSError as error:
            raise StoreError(f"the image store {store.root} cannot be written: {error}") from error

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def has(self, chunk_hash: bytes) -> bool:
        """Whether this writer or the store holds the chunk: it need not be put.

        A stored chunk is read and checked: what a flipped bit or a lost pack has hit is captured anew.
        """
        with self._lock:
            if chunk_hash in self._mine:
                return True
        return self._sound_entry(chunk_hash) is not None

    def put(self, chunk_hash: bytes, stored: bytes | memoryview, raw_bytes: int, *, verify: bool = False) -> None:
        """Keep a chunk; one that is held already is dropped.

        With `verify` the bytes are decompressed and compared with `chunk_hash` first (ChunkError): for chunks that
        another machine sent. Without, the caller has made them of bytes with this hash itself.
        """
        if len(chunk_hash) != 32:
            raise ChunkError("a chunk's hash is 32 bytes long")
        if self.has(chunk_hash):
            return
        if verify:
            Decompressor().open(stored, raw_bytes, chunk_hash)
        with self._lock:
            self._check_open()
            if chunk_hash in self._mine:  # another thread was faster
                return
            try:
                if self._pack is None:
                    self._pack = PackWriter(self.directory, len(self._packs))
                self._mine[chunk_hash] = self._pack.add(chunk_hash, stored, raw_bytes)
                if self._pack.is_full:
                    self._close_pack()
            except OSError as error:
                self._failure = f"the image store {self._store.root} cannot be written: {error}"
                raise StoreError(self._failure) from error

    def publish(self, manifest: Manifest) -> Manifest:
        """Sign `manifest` as the next version of its name and make it visible, all at once.

        Its version and the stored length of its chunks are filled in. Raises StoreError, with nothing published, when
        a chunk was never put; ManifestError when the manifest does not hold together.
        """
        with self._lock:
            self._check_open()
            chunks = []
            for chunk in manifest.chunks:
                entry = self._mine.get(chunk.hash) or self._sound_entry(chunk.hash)
                if entry is None:
                    raise StoreError(
                        f"chunk {chunk.hash.hex()[:16]} of image {manifest.name} was never put or is damaged; "
                        "capture it again"
                    )
                if entry.raw_bytes != chunk.raw_bytes:
                    raise StoreError(f"chunk {chunk.hash.hex()[:16]} is held with another length than the manifest's")
                stored = entry.stored_bytes
                chunks.append(
                    chunk if chunk.stored_bytes == stored else dataclasses.replace(chunk, stored_bytes=stored)
                )
            manifest = dataclasses.replace(manifest, chunks=tuple(chunks))
            try:
                return self._publish(manifest)
            except OSError as error:
                raise StoreError(f"the image store {self._store.root} cannot be written: {error}") from error

    def close(self) -> None:
        """Remove what was not published. Safe to repeat."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
            if self._pack is not None:
                self._pack.abandon()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._living)

    def _sound_entry(self, chunk_hash: bytes) -> PackEntry | None:
        if chunk_hash not in self._sound:
            for place in self._store._known(chunk_hash):
                with contextlib.suppress(StoreError):
                    read_stored(place)
                    self._sound[chunk_hash] = place.entry
                    break
        return self._sound.get(chunk_hash)

    def _publish(self, manifest: Manifest) -> Manifest:
        if self._pack is not None:
            self._close_pack()
        index = build_index(self._packs)
        (self.directory / INDEX_NAME).write_bytes(index)
        for path in [*self.directory.glob("*" + PACK_SUFFIX), self.directory / INDEX_NAME]:
            fsync_path(path)
        name_directory = self._store.versions_root / check_name(manifest.name)
        with locked(self._store.root / "writers.lock"):
            name_directory.mkdir(exist_ok=True)
            belong_to_parent(name_directory)
            version = max(self._store._versions(manifest.name), default=0) + 1
            manifest = dataclasses.replace(manifest, version=version)
            (self.directory / MANIFEST_NAME).write_bytes(build_signed(manifest, self._key))
            fsync_path(self.directory / MANIFEST_NAME)
            (self.directory / LOCK_NAME).unlink()
            self.directory.chmod(0o700)  # an image holds whatever secrets its disk holds
            hand_over(self.directory)
            fsync_path(self.directory)
            final = name_directory / str(version)
            self.directory.rename(final)
            self._finished = True
            os.close(self._living)
            for directory in (name_directory, self._store.versions_root):
                fsync_path(directory)
        self._store._learn(manifest.name, version, final, self._packs)
        return manifest

    def _close_pack(self) -> None:
        assert self._pack is not None
        pack, self._pack = self._pack, None
        self._packs.append((pack.close().name.removesuffix(PACK_SUFFIX), pack.entries))

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("this writer has published or was closed")
        if self._failure:  # its pack has an end that no entry describes
            raise StoreError(self._failure)


class StoredImage:
    """The stored chunks of one version, by number: what a cast reads. Picklable, and opened where it is used."""

    def __init__(self, manifest: Manifest, store: ImageStore) -> None:
        """Raises StoreError when a chunk is in no pack."""
        self.stored_lengths: tuple[int, ...] = tuple(manifest.stored_lengths)
        self._places = tuple(places_of(store, chunk) for chunk in manifest.chunks)

    def read(self, index: int) -> bytes:
        """Stored bytes of chunk `index`, checked. Raises StoreError that names the pack."""
        return read_first_sound(self._places[index])

    def read_into(self, index: int, out: memoryview) -> None:
        """As read(), into memory of the chunk's stored length."""
        out[:] = self.read(index)


def places_of(store: ImageStore, chunk: Chunk) -> tuple[StoredAt, ...]:
    """Where `chunk` is in the stored form that its manifest states. Raises StoreError when that is nowhere."""
    places = tuple(place for place in store.locate(chunk.hash) if place.entry.stored_bytes == chunk.stored_bytes)
    if not places:
        raise StoreError(f"chunk {chunk.hash.hex()[:16]} is stored in another length than its manifest says")
    return places


def read_first_sound(places: tuple[StoredAt, ...]) -> bytes:
    """The stored bytes from the first place that holds them undamaged. Raises the last place's StoreError."""
    for place in places[:-1]:
        with contextlib.suppress(StoreError):
            return read_stored(place)
    return read_stored(places[-1])
