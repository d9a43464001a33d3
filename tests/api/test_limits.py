"""Limits on traffic: token buckets that all workers and instances share."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from flask import Flask, g
from limits import parse
from prometheus_client import REGISTRY

import app as application
from api import bucket_stores
from api.settings import Settings
from db.rate_buckets import BucketsUnavailable, Size, Taken
from tests.api import gunicorn_server
from tests.conftest import Answer, Client, onboard


@pytest.fixture(scope="module", params=["postgres", "redis"])
def strict(request: pytest.FixtureRequest, settings: Settings, serve: Callable[[Flask], int]) -> list[int]:
    """Two apps on one store that let 30 messages a minute pass, as by default."""
    uri = request.getfixturevalue("redis_url") if request.param == "redis" else None
    chosen = replace(settings, rate_limit_messages_per_minute=30, rate_limit_storage_uri=uri)
    return [serve(application.create_app(chosen)) for _ in range(2)]


def _say(client: Client) -> Answer:
    return client.post("/api/v1/messages", {"user_id": str(uuid.uuid4()), "message": "hello"})


def test_thirty_messages_a_minute_over_two_instances(master: Client, strict: list[int]) -> None:
    alice = onboard(master, "Limited")
    clients = [replace(alice, port=strict[number % 2]) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(answer.status for answer in pool.map(_say, clients))
    # No stages, so what passes is a 404; a token comes back every two seconds while the requests run.
    assert 30 <= statuses[404] <= 35
    assert statuses[404] + statuses[429] == 60


def test_a_refusal_says_when_to_come_back(master: Client, strict: list[int]) -> None:
    alice = replace(onboard(master, "Told"), port=strict[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1}})
    first, second = _say(alice), _say(alice)
    assert (first.status, first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == (404, "1", "0")
    assert (second.status, second.error_code) == (429, "RATE_LIMITED")
    assert 55 <= int(second.headers["Retry-After"]) <= 60


def test_a_request_refused_for_its_form_uses_up_a_token_only_where_it_says_so(
    master: Client, strict: list[int], request: pytest.FixtureRequest
) -> None:
    alice = replace(onboard(master, "Clumsy"), port=strict[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 3}})
    foreign = {"business_id": str(uuid.uuid4()), "user_id": str(uuid.uuid4()), "message": "hello"}
    refused = [alice.call("POST", "/api/v1/messages", raw=b"{"), alice.post("/api/v1/messages", foreign)]
    assert [answer.status for answer in refused] == [400, 403]
    # In the database a token is taken when the key is looked up, which is before anything else is known.
    told = ["2", "1"] if "postgres" in request.node.name else [None, None]
    assert [answer.headers.get("RateLimit-Remaining") for answer in refused] == told
    assert _say(alice).headers["RateLimit-Remaining"] == ("0" if told[0] else "2")


def test_a_token_taken_ahead_counts_once_and_for_its_own_bucket() -> None:
    taken = Taken(Size(9, 60), True, 8, 0)

    class Never:
        def take(self, key: str, *_: object, **__: object) -> Taken:
            asked.append(key)
            return taken

    asked: list[str] = []
    bucket = bucket_stores.TokenBucket(bucket_stores.BucketStorage(bucket_stores.URI, buckets=Never()))
    with Flask("limits").app_context():
        g.taken_ahead = ("key/default", taken)
        for scope in ("login", "default", "default"):
            assert bucket.hit(parse("9 per 1 minute"), "key", scope)
        g.taken_ahead = ("key/default", BucketsUnavailable())
        assert bucket.hit(parse("9 per 1 minute"), "key", "login")
        with pytest.raises(BucketsUnavailable):
            bucket.hit(parse("9 per 1 minute"), "key", "default")
    assert asked == ["key/login", "key/default", "key/login"]


def test_a_business_sets_its_own_limit(master: Client, strict: list[int]) -> None:
    alice = replace(onboard(master, "Busy"), port=strict[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1000}})
    assert {_say(alice).status for _ in range(40)} == {404}


def test_one_keys_bucket_is_not_anothers(master: Client, strict: list[int]) -> None:
    alice, charlie = (replace(onboard(master, name), port=strict[0]) for name in ("Empty", "Full"))
    assert [_say(alice).status for _ in range(32)].count(429) > 0
    assert _say(charlie).status == 404


def test_the_first_sketchs_path_shares_the_bucket(master: Client, strict: list[int]) -> None:
    alice = replace(onboard(master, "Shared"), port=strict[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1}})
    assert _say(alice).status == 404
    assert alice.post("/message", {"user_id": str(uuid.uuid4()), "message": "hello"}).status == 429


def test_headers_tell_the_size_what_is_left_and_when_it_is_full(master: Client, strict: list[int]) -> None:
    alice = replace(onboard(master, "Counted"), port=strict[0])
    first, second = _say(alice), _say(alice)
    assert (first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == ("30", "29")
    assert 1 <= int(first.headers["RateLimit-Reset"]) <= 2
    assert int(second.headers["RateLimit-Reset"]) <= 4
    assert "Retry-After" not in second.headers
    # Another scope, another bucket.
    assert alice.get("/api/v1/stages").headers["RateLimit-Limit"] == "1000"


def test_who_waits_as_told_is_let_through(master: Client, strict: list[int]) -> None:
    alice = replace(onboard(master, "Patient"), port=strict[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 20}})
    refused = next(answer for answer in iter(lambda: _say(alice), None) if answer.status == 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 3
    time.sleep(int(refused.headers["Retry-After"]))
    assert _say(alice).status == 404


def test_refusals_are_counted_by_limit(master: Client, strict: list[int]) -> None:
    alice = replace(onboard(master, "Measured"), port=strict[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1}})
    before = _refused("messages")
    assert [_say(alice).status for _ in range(3)] == [404, 429, 429]
    assert _refused("messages") == before + 2


def _refused(limit: str) -> float:
    return REGISTRY.get_sample_value("icmp_rate_limited_total", {"limit": limit}) or 0


@pytest.fixture(scope="module")
def fleet(
    database_url: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[gunicorn_server.Served]]:
    """Two servers of two processes each, over one store."""
    shared = {"WEB_CONCURRENCY": "2", "DB_POOL_SIZE": "4", "RATE_LIMIT_MESSAGES_PER_MINUTE": "30"}
    if request.param == "redis":
        shared["RATE_LIMIT_STORAGE_URI"] = request.getfixturevalue("redis_url").replace("redis", "valkey", 1)
    with ExitStack() as running:
        yield [
            running.enter_context(
                gunicorn_server.running(tmp_path_factory.mktemp(f"fleet{number}"), database_url, **shared)
            )
            for number in range(2)
        ]


@pytest.mark.parametrize("fleet", ["postgres", "redis"], indirect=True)
@pytest.mark.parametrize("own_limit", [None, 12])
def test_the_limit_is_exact_over_two_instances_of_two_processes(
    fleet: list[gunicorn_server.Served], master: Client, own_limit: int | None
) -> None:
    alice, per_minute = onboard(master, "Exact"), own_limit or 30
    if own_limit is not None:
        changed = {"settings": {"messages_per_minute": own_limit}}
        assert master.patch(f"/api/v1/businesses/{alice.business_id}", changed).status == 200
    begun = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(_say, [replace(alice, port=fleet[number % 2].port) for number in range(200)]))
    refill = (time.monotonic() - begun) * per_minute / 60
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {404, 429}
    assert per_minute <= statuses[404] <= per_minute + refill
    assert {answer.headers["RateLimit-Limit"] for answer in answers} == {str(per_minute)}
    for server in fleet:
        lines = server.lines()
        assert sum("Booting worker" in line["message"] for line in lines) == 2
        # Flask-Limiter would write down the address of whoever it refuses.
        assert [line for line in lines if line["source"] == "flask-limiter"] == []
