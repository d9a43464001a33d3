"""Flask-Limiter's strategy and storage of ours: token buckets, in PostgreSQL or in Redis."""

from __future__ import annotations

from typing import Any, cast

from flask import g
from limits import RateLimitItem, WindowStats
from limits.storage import Storage
from limits.strategies import STRATEGIES, RateLimiter

import db
from db.rate_buckets import Buckets, BucketsUnavailable, PostgresBuckets, Size, Taken

STRATEGY = "token-bucket"
URI = "icmp://"
# The limit whose size a business may set for itself.
MESSAGES = "messages"
_NO_COUNTERS = "buckets have no counters and no windows"


def chosen(storage_uri: str | None, database: db.Database) -> Buckets:
    """The buckets in Redis or Valkey if an address is set, else those in PostgreSQL. Connects to nothing."""
    if storage_uri is None:
        return PostgresBuckets(database)
    # The client's package is heavy, and most servers do without.
    from db import redis_buckets

    return redis_buckets.RedisBuckets(storage_uri, database)


def size(item: RateLimitItem) -> Size:
    """The bucket that a limit of N per T stands for."""
    return Size(item.amount, item.get_expiry())


class BucketStorage(Storage):
    """The place of the buckets, as `limits` finds it; only TokenBucket uses it."""

    STORAGE_SCHEME = ["icmp"]  # noqa: RUF012 — the base class wants an instance's list

    def __init__(self, uri: str, buckets: Any = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self.buckets: Buckets = buckets

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the storage raises when it is down."""
        return BucketsUnavailable

    def check(self) -> bool:
        """Whether the buckets can be reached."""
        try:
            self.buckets.take("check", Size(1, 1))
        except BucketsUnavailable:
            return False
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Buckets are taken from by TokenBucket alone."""
        raise NotImplementedError(_NO_COUNTERS)

    def get(self, key: str) -> int:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)

    def get_expiry(self, key: str) -> float:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)

    def reset(self) -> int | None:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)

    def clear(self, key: str) -> None:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)


class TokenBucket(RateLimiter):
    """A limit of N per T is a bucket of N tokens that fills in T."""

    storage: BucketStorage

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take a token for a key in a scope, unless it was taken when the key was looked up; what is left stands in
        `g.taken` for the headers. Raises BucketsUnavailable."""
        (_, scope), name = identifiers, "/".join(identifiers)
        ahead, taken = g.get("taken_ahead") or (None, None)
        if ahead != name:
            taken = self._taken(item, name, scope, cost)
        else:
            g.taken_ahead = None  # it is spent with this
        if isinstance(taken, BucketsUnavailable):
            raise taken
        g.taken = taken
        return bool(g.taken.is_allowed)

    def _taken(self, item: RateLimitItem, name: str, scope: str, cost: int) -> Taken:
        limit_of = g.get("business_id") if scope == MESSAGES else None
        return self.storage.buckets.take(name, size(item), cost=cost, limit_of=limit_of)

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether a token is there."""
        raise NotImplementedError("a test is out of date when it is answered: take a token")

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """There are no windows."""
        raise NotImplementedError(_NO_COUNTERS)


cast(dict[str, type[RateLimiter]], STRATEGIES)[STRATEGY] = TokenBucket
