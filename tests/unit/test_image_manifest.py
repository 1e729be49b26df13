"""The manifest: what is written is read, and what is damaged, forged or out of range is refused."""

import dataclasses
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from image_builders import KEY, MIB, a_chunk, a_manifest

from imager.errors import ManifestError
from imager.image.keys import load_or_create_signing_key, public_key_bytes
from imager.image.manifest import (
    Chunk,
    Extent,
    ImageKind,
    Manifest,
    Partition,
    build_signed,
    check_name,
    parse_signed,
    parse_unsigned,
)


def test_a_signed_manifest_is_read_as_it_was_written() -> None:
    manifest = a_manifest()
    data = build_signed(manifest, KEY)
    assert parse_signed(data, public_key_bytes(KEY)) == manifest
    assert parse_unsigned(manifest.body()) == manifest
    assert data[:-100] == manifest.body()


def test_an_image_without_used_bytes_has_a_manifest() -> None:
    manifest = a_manifest(source_bytes=0, layout=(), table="none", chunks=())
    assert parse_unsigned(manifest.body()) == manifest


def test_a_manifest_of_another_signer_is_refused() -> None:
    data = build_signed(a_manifest(), Ed25519PrivateKey.generate())
    with pytest.raises(ManifestError, match="is expected"):
        parse_signed(data, public_key_bytes(KEY))
    assert parse_signed(data, None) == a_manifest()


def test_every_flipped_byte_of_a_signed_manifest_is_found() -> None:
    data = build_signed(a_manifest(), KEY)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(ManifestError):
            parse_signed(bytes(damaged), public_key_bytes(KEY))


def test_a_truncated_manifest_is_refused() -> None:
    data = build_signed(a_manifest(), KEY)
    for length in [*range(0, len(data), 13), len(data) - 1]:
        with pytest.raises(ManifestError):
            parse_signed(data[:length], None)
    body = a_manifest().body()
    with pytest.raises(ManifestError):
        parse_unsigned(body + b"\0")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Debian"},
        {"name": "../etc"},
        {"name": "a" * 64},
        {"version": -1},
        {"window_bytes": 1000},
        {"window_bytes": 5000},
        {"source_bytes": -1},
        {"table": "apm"},
        {"facts": {"a": "\ud800"}},
        {"layout": (Partition(1, 4 * MIB, MIB, "83", "", "", ""),)},
        {"chunks": (a_chunk(1), a_chunk(0))},
        {"chunks": (a_chunk(1), a_chunk(1, seed=2))},
        {"chunks": (a_chunk(9),)},
        {"chunks": (a_chunk(4),)},  # the last window is half a MiB only
        {"chunks": (a_chunk(0, (4096, 512), (0, 512)),)},
        {"chunks": (a_chunk(0, (0, 4096), (2048, 4096)),)},
        {"chunks": (a_chunk(0, (0, 4096), (4096, 4096)),)},  # extents that touch are one extent
        {"chunks": (a_chunk(0, (MIB - 512, 1024)),)},
        {"chunks": (a_chunk(0, (0, 0)),)},
        {"chunks": (a_chunk(0, stored_bytes=2 * MIB),)},
        {"chunks": (dataclasses.replace(a_chunk(0), extents=()),)},
        {"chunks": (dataclasses.replace(a_chunk(0), raw_bytes=7),)},
        {"chunks": (dataclasses.replace(a_chunk(0), hash=b"short"),)},
        {"chunks": (dataclasses.replace(a_chunk(0), window=1 << 33),)},
        {"chunks": (dataclasses.replace(a_chunk(0), extents=(Extent(1 << 40, MIB),)),)},
        {"chunks": (dataclasses.replace(a_chunk(0), stored_bytes=-1),)},
    ],
)
def test_a_manifest_that_does_not_hold_together_is_never_written(changes: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        a_manifest(**changes).body()


def test_only_what_was_published_is_signed() -> None:
    with pytest.raises(ManifestError):
        build_signed(a_manifest(version=0), KEY)
    with pytest.raises(ManifestError):
        build_signed(a_manifest(chunks=(a_chunk(0, stored_bytes=0),)), KEY)


def test_facts_in_another_order_are_not_the_same_manifest() -> None:
    body = a_manifest().body()
    other = body.replace(b'"created_s":1700000000,"facts":{"hostname":"golden","os":"Debian 12"}', b"@")
    assert other != body
    swapped = other.replace(b"@", b'"facts":{"hostname":"golden","os":"Debian 12"},"created_s":1700000000')
    assert len(swapped) == len(body)
    with pytest.raises(ManifestError, match="canonical"):
        parse_unsigned(swapped)


def test_names_say_what_a_name_is() -> None:
    assert check_name("win11.24h2_lab-3") == "win11.24h2_lab-3"
    with pytest.raises(ManifestError, match="63"):
        check_name("")


def test_a_hundred_thousand_chunks_parse_quickly() -> None:
    chunks = tuple(
        Chunk(i, (Extent(i * MIB, 4096), Extent(i * MIB + 8192, 4096)), i.to_bytes(32, "big"), 8192, 4000)
        for i in range(100_000)
    )
    manifest = Manifest("big", 1, ImageKind.SECTOR, 1, 100_000 * MIB, 512, MIB, (), "none", {}, chunks)
    body = manifest.body()
    began = time.process_time()
    assert parse_unsigned(body) == manifest
    assert time.process_time() - began < 6  # 0.6 s where it was written


def test_the_signing_key_is_made_once_and_kept_private(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first = load_or_create_signing_key(tmp_path / "keys")
    second = load_or_create_signing_key(tmp_path / "keys")
    assert public_key_bytes(first) == public_key_bytes(second)
    assert (tmp_path / "keys" / "signing.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "signing.pub").read_text().strip() == public_key_bytes(first).hex()
