"""The bucket store is down: nobody logs in, everything else passes, and the log and the metrics say so."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask import Flask
from prometheus_client import REGISTRY

from api.settings import Settings
from tests import redis_server
from tests.api import people
from tests.conftest import Answer, Client, onboard
from tests.listening import listening
from tests.waiting import until

Sql = Callable[..., list[tuple[Any, ...]]]


def _say(client: Client) -> Answer:
    return client.post("/api/v1/messages", {"user_id": str(uuid.uuid4()), "message": "hello"})


def _failures() -> float:
    return REGISTRY.get_sample_value("icmp_limit_store_failures_total") or 0


def _limited(settings: Settings, uri: str | None = None) -> Flask:
    """An app of which one key gets three messages a minute."""
    return people.generous(replace(settings, rate_limit_messages_per_minute=3, rate_limit_storage_uri=uri))


def test_redis_dies_while_requests_run_and_comes_back(
    settings: Settings, serve: Callable[[Flask], int], master: Client, alice: Client, tmp_path: Path
) -> None:
    person, seen, is_over = people.hire(alice, "viewer"), list[Answer](), threading.Event()
    with redis_server.running(tmp_path) as server:
        port = serve(_limited(settings, server.url))
        busy = [replace(onboard(master, "Busy"), port=port) for _ in range(4)]

        def talk(client: Client) -> None:
            while not is_over.is_set():
                seen.append(_say(client))

        talkers = [threading.Thread(target=talk, args=[client]) for client in busy]
        with listening("api.limits") as lines:
            for talker in talkers:
                talker.start()
            try:
                until(lambda: any(answer.status == 429 for answer in seen))
                assert person.login(port).status == 200
                before = _failures()
                server.kill()
                until(lambda: _failures() >= before + 20)
                refused = person.login(port)
                assert (refused.status, refused.error_code) == (503, "DATABASE_UNAVAILABLE")
                assert "limits cannot be checked" in refused.body["message"]
                assert int(refused.headers["Retry-After"]) > 0
                assert Client(port).get("/api/v1/auth/me").status == 401
                server.start()
                until(lambda: person.login(port).status == 200)
                came_back = len(seen)
                until(lambda: any(answer.status == 429 for answer in seen[came_back:]))
            finally:
                is_over.set()
                for talker in talkers:
                    talker.join(20)
    assert {answer.status for answer in seen} == {404, 429}
    told = [line for line in lines.written if line["level"] == "ERROR"]
    assert 1 <= len(told) <= 5  # of twenty requests and more
    assert told[0]["message"].startswith("limits are off")
    assert (told[0]["count"], told[0]["cause"]) == (1, "ConnectionError")


def test_without_its_table_the_limit_is_off_and_nobody_logs_in(
    settings: Settings, serve: Callable[[Flask], int], alice: Client, sql: Sql
) -> None:
    port, person = serve(_limited(settings)), people.hire(alice, "viewer")
    here, token = replace(alice, port=port), person.client(port)
    sql("ALTER TABLE rate_buckets RENAME TO lost_buckets")
    try:
        before = _failures()
        assert [_say(here).status for _ in range(5)] == [404] * 5
        assert here.get("/api/v1/stages").status == 200
        refused = person.login(port)
        assert (refused.status, refused.error_code) == (503, "DATABASE_UNAVAILABLE")
        # A guess at one's own password is a guess.
        changing = {"password": "another long pass phrase", "current_password": people.PASSWORD}
        assert token.patch(f"{people.LIST}/{person.user_id}", changing).status == 503
        assert _failures() == before + 9
    finally:
        sql("ALTER TABLE lost_buckets RENAME TO rate_buckets")
    assert [_say(here).status for _ in range(4)] == [404] * 3 + [429]
    assert person.login(port).status == 200
