"""Token buckets in both stores: what is promised of either, and what each does when it is not well."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

import db
from db.rate_buckets import Buckets, BucketsUnavailable, PostgresBuckets, Size, hashed
from db.redis_buckets import RedisBuckets
from tests import redis_server
from tests.conftest import Client

SLOW = Size(10, 10_000)


@pytest.fixture
def postgres_buckets(database: db.Database) -> PostgresBuckets:
    return PostgresBuckets(database)


@pytest.fixture(params=["postgres", "redis"])
def buckets(request: pytest.FixtureRequest, database: db.Database) -> Buckets:
    """Each store in turn."""
    if request.param == "postgres":
        return PostgresBuckets(database)
    return RedisBuckets(request.getfixturevalue("redis_url"), database)


def test_a_bucket_never_gives_more_than_its_size_and_its_refill(buckets: Buckets) -> None:
    key = uuid.uuid4().hex
    taken = [buckets.take(key, SLOW) for _ in range(12)]
    assert [each.is_allowed for each in taken] == [True] * 10 + [False] * 2
    assert [int(each.remaining) for each in taken] == [*range(9, -1, -1), 0, 0]
    assert {each.retry_after_s for each in taken[:10]} == {0}
    assert 900 < taken[-1].retry_after_s <= 1000
    assert {each.size for each in taken} == {SLOW}
    assert buckets.take(uuid.uuid4().hex, SLOW).is_allowed


def test_many_takers_at_once_get_each_token_once(buckets: Buckets) -> None:
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: buckets.take(key, Size(50, 1_000_000)), range(200)))
    assert sum(each.is_allowed for each in taken) == 50


def test_who_comes_back_when_told_gets_a_token(buckets: Buckets) -> None:
    key, size = uuid.uuid4().hex, Size(2, 1)
    refused = next(taken for taken in iter(lambda: buckets.take(key, size), None) if not taken.is_allowed)
    assert 0 < refused.retry_after_s <= 0.5
    time.sleep(refused.retry_after_s)
    assert buckets.take(key, size).is_allowed


def test_more_than_is_there_is_refused_and_nothing_is_taken(buckets: Buckets) -> None:
    key = uuid.uuid4().hex
    refused = buckets.take(key, SLOW, cost=11)
    assert not refused.is_allowed
    assert 900 < refused.retry_after_s <= 1000
    assert buckets.take(key, SLOW, cost=10).is_allowed


def test_a_full_bucket_is_no_fuller_for_having_waited(buckets: Buckets) -> None:
    key, size = uuid.uuid4().hex, Size(3, 0.03)
    assert buckets.take(key, size).is_allowed
    time.sleep(0.2)
    assert buckets.take(key, size).remaining == pytest.approx(2)


def test_a_businesss_own_limit_counts_instead(buckets: Buckets, alice: Client, charlie: Client) -> None:
    path = f"/api/v1/businesses/{alice.business_id}"
    assert alice.patch(path, {"settings": {"messages_per_minute": 7}}).status == 200
    key, size = uuid.uuid4().hex, Size(30, 60)
    assert buckets.take(key, size, limit_of=alice.business_id).size == Size(7, 60)
    assert int(buckets.take(key, size, limit_of=alice.business_id).remaining) == 5
    assert buckets.take(uuid.uuid4().hex, size, limit_of=charlie.business_id).size == size
    assert buckets.take(uuid.uuid4().hex, size, limit_of=str(uuid.uuid4())).size == size


def test_a_changed_own_limit_counts_within_seconds(buckets: Buckets, alice: Client) -> None:
    key, size, path = uuid.uuid4().hex, Size(30, 60), f"/api/v1/businesses/{alice.business_id}"
    assert buckets.take(key, size, limit_of=alice.business_id).size == size
    assert alice.patch(path, {"settings": {"messages_per_minute": 7}}).status == 200
    deadline = time.monotonic() + 20
    while buckets.take(key, size, limit_of=alice.business_id).size != Size(7, 60):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_take_is_one_round_trip(postgres_buckets: PostgresBuckets, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    once = db.Database.once

    def counted(self: db.Database, *arguments: Any) -> list[tuple[Any, ...]]:
        asked.append(arguments)
        return once(self, *arguments)

    monkeypatch.setattr(db.Database, "once", counted)
    monkeypatch.setattr(db.Database, "transaction", None)
    monkeypatch.setattr("random.random", lambda: 0.5)
    postgres_buckets.take(uuid.uuid4().hex, SLOW, limit_of=str(uuid.uuid4()))
    assert len(asked) == 1


def test_an_address_is_kept_as_a_hash_only(
    postgres_buckets: PostgresBuckets, database: db.Database, redis_url: str, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    key = f"203.0.113.9/{uuid.uuid4().hex}"
    RedisBuckets(redis_url, database).take(key, SLOW)
    postgres_buckets.take(key, SLOW)
    assert sql("SELECT tokens FROM rate_buckets WHERE bucket_key = %s", hashed(key)) == [(9,)]
    name = f"icmp:bucket:{hashed(key).hex()}"
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists(name) == 1
        # The token is back after a thousand seconds; then the key may go.
        assert 900 < int(str(client.ttl(name))) <= 1002
        assert [each for each in client.keys("*") if b"203.0.113.9" in each] == []


def test_only_full_buckets_are_swept_away(
    postgres_buckets: PostgresBuckets, sql: Callable[..., list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, empty = uuid.uuid4().hex, uuid.uuid4().hex
    postgres_buckets.take(full, Size(100, 0.001))
    postgres_buckets.take(empty, SLOW)
    time.sleep(0.01)
    monkeypatch.setattr("random.random", lambda: 0.0)
    postgres_buckets.take(uuid.uuid4().hex, SLOW)
    kept = "SELECT bucket_key FROM rate_buckets WHERE bucket_key IN (%s, %s)"
    assert [bytes(row[0]) for row in sql(kept, hashed(full), hashed(empty))] == [hashed(empty)]


def test_a_locked_bucket_is_not_waited_for(postgres_buckets: PostgresBuckets, database_url: str) -> None:
    key = uuid.uuid4().hex
    postgres_buckets.take(key, SLOW)
    holder = psycopg2.connect(database_url)
    with holder, holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM rate_buckets WHERE bucket_key = %s FOR UPDATE", [hashed(key)])
        begun = time.monotonic()
        with pytest.raises(BucketsUnavailable):
            postgres_buckets.take(key, SLOW)
        assert time.monotonic() - begun < 4  # half a second; a transaction's own limit is five
    holder.close()
    assert postgres_buckets.take(key, SLOW).is_allowed


def test_buckets_that_may_not_be_used_are_no_fault_of_the_caller(
    postgres_buckets: PostgresBuckets, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    sql("REVOKE SELECT ON rate_buckets FROM icmp_app")
    try:
        with pytest.raises(BucketsUnavailable):
            postgres_buckets.take("key", SLOW)
    finally:
        sql("GRANT SELECT ON rate_buckets TO icmp_app")
    assert postgres_buckets.take(uuid.uuid4().hex, SLOW).is_allowed


def test_a_frozen_redis_costs_one_time_out_a_second_and_not_one_a_request(
    database: db.Database, tmp_path: Path
) -> None:
    with redis_server.running(tmp_path) as server:
        buckets = RedisBuckets(server.url, database)
        assert buckets.take("key", SLOW).is_allowed
        server.freeze()
        begun = time.monotonic()
        for _ in range(60):
            with pytest.raises(BucketsUnavailable):
                buckets.take("key", SLOW)
        assert time.monotonic() - begun < 7  # a time-out each would make 15


def test_a_redis_that_comes_back_is_used_again(database: db.Database, tmp_path: Path) -> None:
    with redis_server.running(tmp_path) as server:
        buckets = RedisBuckets(server.url, database)
        assert [buckets.take("key", Size(1, 1000)).is_allowed for _ in range(2)] == [True, False]
        server.kill()
        with pytest.raises(BucketsUnavailable):
            buckets.take("key", SLOW)
        server.start()
        # It forgot both the buckets and the script.
        assert _when_back(buckets).is_allowed


def _when_back(buckets: Buckets) -> Any:
    deadline = time.monotonic() + 20
    while True:
        try:
            return buckets.take("key", Size(1, 1000))
        except BucketsUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_closed_idle_connection_is_replaced_without_anybody_noticing(database: db.Database, tmp_path: Path) -> None:
    with redis_server.running(tmp_path) as server:
        buckets = RedisBuckets(server.url, database)
        assert buckets.take("key", SLOW).is_allowed
        server.kill()
        server.start()
        assert buckets.take("key", SLOW).is_allowed


def test_a_forked_process_makes_connections_of_its_own(database: db.Database, redis_url: str) -> None:
    buckets, key = RedisBuckets(redis_url, database), uuid.uuid4().hex
    buckets.take(key, SLOW)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        queue.put([int(buckets.take(key, SLOW).remaining) for _ in range(4)])

    process = context.Process(target=child)
    process.start()
    here = [int(buckets.take(key, SLOW).remaining) for _ in range(4)]
    there = queue.get(timeout=20)
    process.join(20)
    assert sorted(here + there) == list(range(1, 9))
