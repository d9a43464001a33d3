"""A database of their own for instances: what they count must not mix with other tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from db import migrate
from tests.database import asked


@pytest.fixture(scope="module")
def own_database(postgres: str) -> Iterator[str]:
    """A migrated database that nobody else uses; its address."""
    name = f"instances_{uuid.uuid4().hex}"
    asked(postgres, f"CREATE DATABASE {name}")
    url = urlsplit(postgres)._replace(path=f"/{name}").geturl()
    migrate.apply(url)
    yield url
    asked(postgres, f"DROP DATABASE {name} WITH (FORCE)")
