"""Runs on the booted machine. Few dependencies."""
