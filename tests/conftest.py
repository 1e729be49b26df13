"""Shared by all tests: what needs root is skipped for everybody else, and says so."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason="needs root: sudo tests/run"))
