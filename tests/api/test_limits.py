"""Limits on traffic: token buckets that all workers and instances share."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask import Flask

import app as application
import db
from api.settings import Settings
from db import rate_buckets
from tests.conftest import Answer, Client, onboard


@pytest.fixture(scope="module")
def two_instances(settings: Settings, serve: Callable[[Flask], int]) -> list[int]:
    """Two apps on one database that let 30 messages a minute pass, as by default."""
    strict = replace(settings, rate_limit_messages_per_minute=30)
    return [serve(application.create_app(strict)) for _ in range(2)]


def _say(client: Client) -> Answer:
    return client.post("/api/v1/messages", {"user_id": str(uuid.uuid4()), "message": "hello"})


def test_thirty_messages_a_minute_over_two_instances(master: Client, two_instances: list[int]) -> None:
    alice = onboard(master, "Limited")
    clients = [replace(alice, port=two_instances[number % 2]) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(answer.status for answer in pool.map(_say, clients))
    # No stages, so what passes is a 404; a token comes back every two seconds while the requests run.
    assert 30 <= statuses[404] <= 35
    assert statuses[404] + statuses[429] == 60


def test_a_refusal_says_when_to_come_back(master: Client, two_instances: list[int]) -> None:
    alice = replace(onboard(master, "Told"), port=two_instances[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1}})
    first, second = _say(alice), _say(alice)
    assert (first.status, first.headers["RateLimit-Limit"], first.headers["RateLimit-Remaining"]) == (404, "1", "0")
    assert (second.status, second.error_code) == (429, "RATE_LIMITED")
    assert 55 <= int(second.headers["Retry-After"]) <= 60


def test_a_business_sets_its_own_limit(master: Client, two_instances: list[int]) -> None:
    alice = replace(onboard(master, "Busy"), port=two_instances[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1000}})
    assert {_say(alice).status for _ in range(40)} == {404}


def test_one_keys_bucket_is_not_anothers(master: Client, two_instances: list[int]) -> None:
    alice, charlie = (replace(onboard(master, name), port=two_instances[0]) for name in ("Empty", "Full"))
    assert [_say(alice).status for _ in range(32)].count(429) > 0
    assert _say(charlie).status == 404


def test_the_first_sketchs_path_shares_the_bucket(master: Client, two_instances: list[int]) -> None:
    alice = replace(onboard(master, "Shared"), port=two_instances[0])
    master.patch(f"/api/v1/businesses/{alice.business_id}", {"settings": {"messages_per_minute": 1}})
    assert _say(alice).status == 404
    assert alice.post("/message", {"user_id": str(uuid.uuid4()), "message": "hello"}).status == 429


def test_a_bucket_never_gives_more_than_its_size_and_its_refill(settings: Settings) -> None:
    database = db.Database(settings.database_url)
    key = uuid.uuid4().hex
    taken = []
    for _ in range(12):
        with database.transaction(None) as conn:
            taken.append(rate_buckets.take(conn, key, capacity=10, per_second=0.001))
    assert [each.is_allowed for each in taken] == [True] * 10 + [False] * 2
    assert 900 < taken[-1].retry_after_s <= 1000
    database.close()
