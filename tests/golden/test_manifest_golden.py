"""The bytes of a signed manifest never change: images of today are read by the programs of tomorrow.

tests/data/manifest-1.hex was made once, by format version 1. A failure here means: make a format version 2.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imager.image.keys import public_key_bytes
from imager.image.manifest import Chunk, Extent, ImageKind, Manifest, Partition, build_signed, parse_signed

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
GOLDEN = bytes.fromhex((Path(__file__).parents[1] / "data" / "manifest-1.hex").read_text())
MIB = 1 << 20
MANIFEST = Manifest(
    name="debian-12",
    version=3,
    kind=ImageKind.SECTOR,
    created_s=1_700_000_000,
    source_bytes=3 * MIB + 1024,
    sector_bytes=512,
    window_bytes=MIB,
    layout=(Partition(1, MIB, MIB, "0fc63daf-8483-4772-8e79-3d69d8477de4", "r\u00f6\u00f6t", "uuid", "ext4"),),
    table="gpt",
    facts={"raw.1": "no known file system"},
    chunks=(
        Chunk(0, (Extent(0, 17408),), bytes(range(32)), 17408, 400),
        Chunk(1, (Extent(MIB + 4096, 4096), Extent(2 * MIB - 512, 512)), bytes(range(32, 64)), 4608, 4700),
        Chunk(3, (Extent(3 * MIB, 1024),), bytes(32), 1024, 20),
    ),
)


def test_the_golden_bytes_are_read() -> None:
    assert parse_signed(GOLDEN, public_key_bytes(KEY)) == MANIFEST


def test_the_golden_bytes_are_written() -> None:
    assert build_signed(MANIFEST, KEY) == GOLDEN
