"""Manifest, chunks, packs, store and plan."""
