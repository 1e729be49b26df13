"""Is an image version whole? Reads every pack and every chunk of it, and names what is hit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imager.errors import ChunkError, StoreError
from imager.image.chunks import Decompressor
from imager.image.manifest import Chunk
from imager.image.packs import INDEX_NAME, PACK_SUFFIX, StoredAt, hash_file, parse_index, read_entries, read_stored
from imager.image.store import ImageStore, places_of

OnProgress = Callable[[int, int], None]
"""(stored bytes done, stored bytes in all)"""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    what: str
    """One line: the pack or the chunk, and what happened to it."""
    pack: str
    """Path, or empty."""
    windows: tuple[int, ...]
    """Windows of this version whose bytes are lost by it."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The outcome for one version."""

    name: str
    version: int
    chunk_count: int
    packs: int
    stored_bytes: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Every chunk is there and has its hash, and every pack is the one that its name says."""
        return not self.problems


def verify_image(
    store: ImageStore, name: str, version: int | None = None, on_progress: OnProgress | None = None
) -> VerifyReport:
    """Read everything that `version` needs. Raises UnknownImage, and ManifestError when the manifest itself is hit."""
    store.refresh()
    manifest = store.manifest(name, version)
    problems: list[Problem] = []
    total, done = sum(manifest.stored_lengths), 0
    decompressor = Decompressor()
    packs = _packs_of(store, name, manifest.version)
    hit: dict[Path, list[int]] = {}
    reasons: dict[Path, str] = {}
    for chunk in manifest.chunks:
        done += chunk.stored_bytes
        try:
            places = places_of(store, chunk)
        except StoreError as error:
            problems.append(Problem(str(error), "", (chunk.window,)))
            places = ()
        failures = {place.pack: _check_chunk(chunk, place, decompressor) for place in places}
        packs |= {pack for pack, reason in failures.items() if not reason} or failures.keys()
        for pack, reason in failures.items():
            if reason:
                reasons.setdefault(pack, reason)
        if places and all(failures.values()):
            hit.setdefault(places[0].pack, []).append(chunk.window)
        if on_progress is not None:
            on_progress(done, total)
    for pack in sorted(packs):
        reason = reasons.get(pack) or _check_pack(pack)
        if reason:
            problems.append(Problem(reason, str(pack), tuple(hit.get(pack, ()))))
    directory = store.version_directory(name, manifest.version)
    try:
        parse_index((directory / INDEX_NAME).read_bytes())
    except (OSError, StoreError) as error:
        what = f"the index {directory / INDEX_NAME} is damaged, its packs are read instead: {error}"
        problems.append(Problem(what, "", ()))
    return VerifyReport(name, manifest.version, len(manifest.chunks), len(packs), total, tuple(problems))


def _check_chunk(chunk: Chunk, place: StoredAt, decompressor: Decompressor) -> str:
    try:
        decompressor.open(read_stored(place), chunk.raw_bytes, chunk.hash)
    except StoreError as error:
        return str(error)
    except ChunkError as error:
        return f"pack {place.pack}: {error}"
    return ""


def _check_pack(pack: Path) -> str:
    try:
        read_entries(pack)
        if hash_file(pack) != pack.name.removesuffix(PACK_SUFFIX):
            return f"pack {pack} is damaged: its bytes are not those that its name says"
    except StoreError as error:
        return str(error)
    except OSError as error:
        return f"pack {pack} cannot be read: {error}"
    return ""


def _packs_of(store: ImageStore, name: str, version: int) -> set[Path]:
    directory = store.version_directory(name, version)
    found = set(directory.glob("*" + PACK_SUFFIX))
    try:
        named = parse_index((directory / INDEX_NAME).read_bytes())
    except (OSError, StoreError):
        return found
    return found | {directory / (pack + PACK_SUFFIX) for pack, _ in named}
