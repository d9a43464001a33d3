"""What several tests of the database begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import db


@pytest.fixture
def database(database_url: str) -> Iterator[db.Database]:
    """As the app has it; tests of the pool or of tenants make their own."""
    made = db.Database(database_url)
    yield made
    made.close()
