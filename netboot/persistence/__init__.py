"""Database schema and repositories."""
