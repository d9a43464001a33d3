"""Token buckets: how many requests somebody may still make, exact over all workers and instances."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from db import Connection, NotFound, execute, fetch_one

_SWEEP_SHARE = 0.001


@dataclass(frozen=True)
class Taken:
    """Whether the tokens were there, how many are left, and after how many seconds they would be there."""

    is_allowed: bool
    remaining: float
    retry_after_s: float


def take(conn: Connection, key: str, *, capacity: float, per_second: float, cost: float = 1) -> Taken:
    """Take tokens from the bucket of that key, which starts full."""
    bucket_key = hashlib.sha256(key.encode()).digest()
    row = fetch_one(
        conn,
        "SELECT is_allowed, remaining, retry_after_s FROM take_tokens(%s, %s, %s, %s)",
        [bucket_key, capacity, per_second, cost],
    )
    if row is None:
        raise NotFound
    if random.random() < _SWEEP_SHARE:
        # Buckets untouched for so long are full again, and a full one need not be kept.
        execute(conn, "DELETE FROM rate_buckets WHERE filled_at < clock_timestamp() - interval '1 hour'")
    return Taken(*row)
