"""A key and its bucket in one round trip: the same as one after the other, and a bucket shuts no key out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

import db
from db.key_buckets import KeyBuckets
from db.rate_buckets import BucketsUnavailable, PostgresBuckets, Size, Taken, hashed
from tests.conftest import Client

SIZES = {"messages": Size(3, 100_000), "default": Size(5, 100_000)}
Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def key_buckets(database: db.Database) -> KeyBuckets:
    return KeyBuckets(PostgresBuckets(database), SIZES)


@pytest.fixture
def key(alice: Client, sql: Sql) -> tuple[str, bytes]:
    """The id and the hash of a key of hers."""
    [(key_id, key_hash)] = sql("SELECT key_id, key_hash FROM api_keys WHERE business_id = %s", alice.business_id)
    return str(key_id), bytes(key_hash)


def test_the_bucket_is_the_one_that_is_taken_from_without_the_key(
    key_buckets: KeyBuckets, alice: Client, key: tuple[str, bytes]
) -> None:
    key_id, key_hash = key
    for left in (2, 1):
        holder, taken = key_buckets.find(key_hash, "messages")
        assert holder is not None
        assert (holder.business_id, holder.key_id) == (alice.business_id, key_id)
        assert isinstance(taken, Taken)
        assert (taken.size, taken.is_allowed, int(taken.remaining)) == (SIZES["messages"], True, left)
    assert key_buckets.buckets.take(f"{key_id}/messages", SIZES["messages"]).is_allowed
    _, taken = key_buckets.find(key_hash, "messages")
    assert isinstance(taken, Taken)
    assert not taken.is_allowed
    assert taken.retry_after_s > 0
    _, other = key_buckets.find(key_hash, "default")
    assert isinstance(other, Taken)
    assert other.is_allowed


def test_the_business_own_limit_counts_for_its_messages_alone(
    key_buckets: KeyBuckets, alice: Client, key: tuple[str, bytes]
) -> None:
    own = {"settings": {"messages_per_minute": 7}}
    assert alice.patch(f"/api/v1/businesses/{alice.business_id}", own).status == 200
    sizes = {name: getattr(key_buckets.find(key[1], name)[1], "size", None) for name in SIZES}
    assert sizes == {"messages": Size(7, SIZES["messages"].seconds), "default": SIZES["default"]}


def test_nothing_is_taken_for_a_dead_key(key_buckets: KeyBuckets, key: tuple[str, bytes], sql: Sql) -> None:
    key_id, key_hash = key
    sql("UPDATE api_keys SET revoked_at = now() WHERE key_id = %s", key_id)
    assert key_buckets.find(key_hash, "messages") == (None, None)
    assert key_buckets.find(b"unknown", "messages") == (None, None)
    assert sql("SELECT 1 FROM rate_buckets WHERE bucket_key = %s", hashed(f"{key_id}/messages")) == []


def test_a_limit_whose_buckets_are_no_keys_is_left_alone(key_buckets: KeyBuckets, key: tuple[str, bytes]) -> None:
    for limit in (None, "events"):
        holder, taken = key_buckets.find(key[1], limit)
        assert holder is not None
        assert taken is None


def test_a_locked_bucket_shuts_no_key_out(key_buckets: KeyBuckets, key: tuple[str, bytes], database_url: str) -> None:
    key_id, key_hash = key
    key_buckets.find(key_hash, "messages")
    locker = psycopg2.connect(database_url)
    with locker, locker.cursor() as cursor:
        cursor.execute("SELECT FROM rate_buckets WHERE bucket_key = %s FOR UPDATE", [hashed(f"{key_id}/messages")])
        begun = time.monotonic()
        holder, taken = key_buckets.find(key_hash, "messages")
        assert time.monotonic() - begun < 4  # half a second; a transaction's own limit is five
    locker.close()
    assert holder is not None
    assert isinstance(taken, BucketsUnavailable)


def test_unusable_buckets_shut_no_key_out(key_buckets: KeyBuckets, key: tuple[str, bytes], sql: Sql) -> None:
    sql("REVOKE SELECT ON rate_buckets FROM icmp_app")
    try:
        holder, taken = key_buckets.find(key[1], "messages")
    finally:
        sql("GRANT SELECT ON rate_buckets TO icmp_app")
    assert holder is not None
    assert isinstance(taken, BucketsUnavailable)


def test_a_database_that_is_away_is_told_at_once() -> None:
    away = db.Database("postgresql://icmp@127.0.0.1:9/icmp")
    with pytest.raises(db.DatabaseUnavailable):
        KeyBuckets(PostgresBuckets(away), SIZES).find(b"any", "messages")
