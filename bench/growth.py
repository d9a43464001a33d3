"""Figures 9 and 10: what a turn costs in a database that has grown, and how many events a second are taken."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator


def figure_9(_is_quick: bool) -> Iterator[str]:
    """A turn's overhead in a large database against an empty one."""
    yield _absent("big_database")


def figure_10(_is_quick: bool) -> Iterator[str]:
    """Events in arrays and single."""
    yield _absent("events")


def _absent(module: str) -> str:
    assert importlib.util.find_spec(f"bench.{module}") is None
    return f"SKIP bench/{module}.py is not there"
