"""Sender and receiver sessions of the cast. Pure: no I/O."""
