"""An image version in words and numbers, without its chunks. Pure."""

import dataclasses
from typing import Any

from imager.image.manifest import Manifest


def describe_manifest(manifest: Manifest) -> dict[str, Any]:
    """What a person or a program wants to know of a version, without its chunks."""
    return {
        "name": manifest.name,
        "version": manifest.version,
        "kind": str(manifest.kind),
        "created_s": manifest.created_s,
        "source_bytes": manifest.source_bytes,
        "used_bytes": manifest.used_bytes,
        "stored_bytes": sum(manifest.stored_lengths),
        "sector_bytes": manifest.sector_bytes,
        "window_bytes": manifest.window_bytes,
        "chunk_count": len(manifest.chunks),
        "table": manifest.table,
        "layout": [dataclasses.asdict(partition) for partition in manifest.layout],
        "facts": manifest.facts,
        "manifest_hash": manifest.hash.hex(),
    }
