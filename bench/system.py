"""What a measured system is, whoever made it, and the shape in which each is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WORKERS = 2
# Threads that wait for a model cost little: enough for 500 turns in flight, however the two workers share them.
THREADS = 400


@dataclass(frozen=True)
class System:
    """A running system. Customers POST `body` with a user and a message to `path`."""

    name: str
    url: str
    path: str
    pid: int
    database_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] = field(default_factory=dict)
    user_id: str | None = None  # the only customer, when it must be a known one
