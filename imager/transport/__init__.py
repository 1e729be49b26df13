"""UDP endpoints and processes that drive the cast."""
