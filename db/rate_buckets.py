"""Token buckets in PostgreSQL: how many requests somebody may still make, exact over all workers and instances."""

from __future__ import annotations

import contextlib
import hashlib
import random
from dataclasses import dataclass
from typing import Protocol

import psycopg2

import db

_SWEEP_SHARE = 0.001
# Full ones only, so that nobody gets a token more; a row that a request is at is left to the next sweep.
_SWEEP = """
    DELETE FROM rate_buckets WHERE bucket_key IN (
        SELECT bucket_key FROM rate_buckets WHERE full_at < clock_timestamp() LIMIT 5000 FOR UPDATE SKIP LOCKED)
"""


class BucketsUnavailable(Exception):
    """The store of the limits cannot be asked at the moment."""


@dataclass(frozen=True)
class Size:
    """A bucket that holds so many tokens and fills in so many seconds."""

    tokens: float
    seconds: float


@dataclass(frozen=True)
class Taken:
    """From which bucket, whether the tokens were there, how many are left, and after how many seconds they would be
    there."""

    size: Size
    is_allowed: bool
    remaining: float
    retry_after_s: float


class Buckets(Protocol):
    """Where buckets are kept."""

    def take(self, key: str, size: Size, *, cost: float = 1, limit_of: str | None = None) -> Taken:
        """Take tokens from the bucket of that key, which starts full. `limit_of` is the id of a business whose own
        `messages_per_minute`, if set, counts instead of `size.tokens`. Raises BucketsUnavailable."""


def hashed(key: str) -> bytes:
    """What is kept of a key: no addresses of people."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True)
class PostgresBuckets:
    """Buckets as rows of `rate_buckets`. A take is one round trip, the business's own limit included."""

    database: db.Database

    def take(self, key: str, size: Size, *, cost: float = 1, limit_of: str | None = None) -> Taken:
        """Take tokens; see Buckets."""
        try:
            [(tokens, *taken)] = self.database.once(
                limit_of,
                "SELECT tokens, is_allowed, remaining, retry_after_s FROM take_from_bucket(%s, %s, %s, %s, %s)",
                [hashed(key), size.tokens, size.seconds, cost, limit_of],
            )
        # A table or right that is missing is a fault of ours, and no reason to turn requests away either.
        except (db.DatabaseUnavailable, psycopg2.Error) as error:
            raise BucketsUnavailable from error
        self.sweep_now_and_then()
        return Taken(Size(tokens, size.seconds), *taken)

    def sweep_now_and_then(self) -> None:
        """To be called with each take."""
        if random.random() < _SWEEP_SHARE:
            self.sweep()

    def sweep(self) -> None:
        """Delete buckets that are full again, a bounded number at once."""
        with contextlib.suppress(db.DatabaseUnavailable, psycopg2.Error):
            self.database.once(None, _SWEEP)
