"""File images: WIM."""
