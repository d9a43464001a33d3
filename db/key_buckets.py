"""A key looked up and a token taken from its bucket, in one round trip: every request of a business begins so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg2

import db
from db.api_keys import Holder, find_holder
from db.batch import Single
from db.rate_buckets import BucketsUnavailable, PostgresBuckets, Size, Taken

_FIND = (
    "SELECT business_id, key_id, is_stale, expires_at, tokens, is_allowed, remaining, retry_after_s"
    " FROM find_key_and_take(%s, %s, %s, %s)"
)


@dataclass(frozen=True)
class KeyBuckets:
    """`sizes`: by limit, those whose buckets belong to keys; none where the buckets are not in the database."""

    buckets: PostgresBuckets
    sizes: Mapping[str, Size]

    def find(self, key_hash: bytes, limit: str | None) -> tuple[Holder | None, Taken | BucketsUnavailable | None]:
        """Whose live key has this hash, and what was taken for one request under that limit, or why it could not be;
        None when the key is not alive, or the limit's bucket is not a key's. Raises DatabaseUnavailable."""
        size = self.sizes.get(limit or "")
        if size is None:
            return self._found(key_hash), None
        try:
            rows = self.buckets.database.once(None, _FIND, [key_hash, limit, size.tokens, size.seconds])
        except (db.DatabaseUnavailable, psycopg2.Error) as error:
            cause = error if isinstance(error, psycopg2.Error) else error.__cause__
            if getattr(cause, "pgcode", None) is None:  # the server said nothing: it is away
                raise
            # A bucket that is locked for long, or may not be used, is no reason to turn the request away.
            unavailable = BucketsUnavailable()
            unavailable.__cause__ = error
            return self._found(key_hash), unavailable
        self.buckets.sweep_now_and_then()
        if not rows:
            return None, None
        [(*holder, tokens, is_allowed, remaining, retry_after_s)] = rows
        return Holder(*holder), Taken(Size(tokens, size.seconds), is_allowed, remaining, retry_after_s)

    def _found(self, key_hash: bytes) -> Holder | None:
        return find_holder(Single(self.buckets.database, None), key_hash)
