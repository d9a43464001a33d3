"""Upgrades: the previous release's database with data in it, its code beside ours, and traffic all the while."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
from flask import Flask

import app as application
import db
from api.settings import Settings
from db import migrate
from tests.api.people import PASSWORD
from tests.conftest import Client
from tests.database import asked
from tests.db import statements
from tests.deploy import old_release
from tests.waiting import until

RELEASE = Path(__file__).parent / "releases" / "0001-0004.sql"
TENANT_TABLES = """
    SELECT table_name FROM information_schema.columns
    WHERE table_schema = 'public' AND column_name = 'business_id' ORDER BY 1
"""


@pytest.fixture
def released(postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database as the previous release left it."""
    name = f"released_{uuid.uuid4().hex}"
    asked(postgres, f"CREATE DATABASE {name}")
    url = urlsplit(postgres)._replace(path=f"/{name}").geturl()
    known = migrate.available()
    with monkeypatch.context() as then:
        then.setattr(migrate, "available", lambda: known[: old_release.LAST_MIGRATION])
        migrate.apply(url)
    # The rows of the templates that come with the platform are in the file as well.
    asked(url, f"TRUNCATE global_templates, platform_secrets; {RELEASE.read_text(encoding='utf-8')}")
    yield url
    asked(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def told() -> dict[str, Any]:
    """What is known of the recorded data."""
    found: dict[str, Any] = json.loads(RELEASE.read_text(encoding="utf-8").partition("\n")[0].removeprefix("-- "))
    return found


@pytest.fixture
def serve_on(settings: Settings, serve: Callable[[Flask], int]) -> Callable[..., int]:
    """Serves this release's app over a database, perhaps with other settings; its port."""

    def start(url: str, **changes: Any) -> int:
        app = application.create_app(replace(settings, database_url=url, migration_database_url=url, **changes))
        app.config["CHECK_REPLIES"] = True
        return serve(app)

    return start


def _counts(url: str, tables: list[str]) -> dict[str, int]:
    return {table: asked(url, f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def _wrote(client: Client, told: dict[str, Any], message: str) -> int:
    body = {"user_id": told["user_id"], "conversation_id": told["conversation_id"], "message": message}
    return client.post("/api/v1/messages", body).status


def test_no_row_is_lost_and_old_data_is_read_and_written(
    released: str, told: dict[str, Any], serve_on: Callable[..., int]
) -> None:
    tables = [name for (name,) in asked(released, TENANT_TABLES)]
    before = _counts(released, tables)
    assert all(before[name] for name in ("messages", "turns", "turn_steps", "orders", "events", "stages", "api_keys"))
    migrate.apply(released)
    assert _counts(released, tables) == before
    shop = Client(serve_on(released), told["api_key"], told["business_id"])
    conversation = f"/api/v1/conversations/{told['conversation_id']}"
    newest_first = [each["message_content"] for each in shop.get(f"{conversation}/messages").body]
    assert newest_first[::-1] == [text for pair in zip(told["said"], told["responses"], strict=True) for text in pair]
    turn = shop.get(f"/api/v1/turns/{told['turn_id']}").body
    assert (turn["state"], {step["kind"] for step in turn["steps"]}) == (
        "done",
        {"stage_selection", "data_extraction", "data_retrieval", "response_generation"},
    )
    assert _wrote(shop, told, "And where is order 4711 now?") == 200
    assert len(shop.get(f"{conversation}/messages").body) == len(newest_first) + 2


def test_every_resource_of_the_old_data_answers_and_people_log_in(
    released: str, told: dict[str, Any], serve_on: Callable[..., int]
) -> None:
    migrate.apply(released)
    port = serve_on(released)
    shop = Client(port, told["api_key"], told["business_id"])
    for resource in ("agents", "templates", "stages", "products", "services", "orders", "users", "events", "turns"):
        listed = shop.get(f"/api/v1/{resource}" if resource != "turns" else _turns(told))
        assert (listed.status, bool(listed.body)) == (200, True), resource
    stages = {each["stage_name"]: each for each in shop.get("/api/v1/stages").body}
    changed = shop.patch(f"/api/v1/stages/{stages['weather']['stage_id']}", {"stage_description": "Rain or sun?"})
    assert changed.status == 200
    assert shop.get("/api/v1/config").status == 200
    login = Client(port).post("/api/v1/auth/login", {"email": told["email"], "password": PASSWORD})
    assert (login.status, login.body["user"]["role"]) == (200, "owner")
    stranger = Client(port, told["stranger_key"])
    assert stranger.get(f"/api/v1/conversations/{told['conversation_id']}").status == 404


def _turns(told: dict[str, Any]) -> str:
    return f"/api/v1/conversations/{told['conversation_id']}/turns"


def test_the_old_code_answers_during_the_migrations_and_beside_the_new_code(
    released: str, told: dict[str, Any], serve_on: Callable[..., int], tmp_path: Path
) -> None:
    release = old_release.unpack(tmp_path)
    statuses: list[int] = []
    done = threading.Event()

    def traffic(port: int, text: str) -> None:
        shop = Client(port, told["api_key"])
        while not done.is_set():
            body = {"user_id": str(uuid.uuid4()), "message": text}
            statuses.append(shop.post("/api/v1/messages", body).status)
            statuses.append(shop.get(_turns(told)).status)

    with old_release.running(release, released) as old, ThreadPoolExecutor(6) as threads:
        try:
            callers = [threads.submit(traffic, old, "When are you open?") for _ in range(2)]
            applied = [threads.submit(migrate.apply, released) for _ in range(2)]
            assert sum(len(each.result(120)) for each in applied) == _newer()
            new = serve_on(released)
            callers.append(threads.submit(traffic, new, "Where is my order?"))
            seen = len(statuses)
            until(lambda: len(statuses) > seen + 40)
        finally:
            done.set()
        for caller in callers:
            caller.result(60)
        # Turn by turn in one conversation, by both.
        answered = [_wrote(Client(port, told["api_key"]), told, "It is 4711") for port in (new, old, new, old)]
        # Steps so long that they are compressed, unless they must not be.
        long = {"user_id": str(uuid.uuid4()), "message": "Where is order 4711, please? " * 400}
        plain = Client(serve_on(released, compresses_ledger=False), told["api_key"])
        turn = f"/api/v1/turns/{plain.post('/api/v1/messages', long).body['turn_id']}"
        read = [Client(port, told["api_key"]).get(turn).status for port in (new, old)]
    assert set(statuses) == {200}, statuses
    assert (answered, read) == ([200] * 4, [200] * 2)


def _newer() -> int:
    return len(migrate.available()) - old_release.LAST_MIGRATION


@pytest.fixture
def later(released: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The migrated database, and one more migration that wants two tables for itself."""
    migrate.apply(released)
    wanted = "ALTER TABLE turns ADD COLUMN colour text; ALTER TABLE products ADD COLUMN colour text"
    (tmp_path / "9000_later.sql").write_text(wanted)
    monkeypatch.setattr(migrate, "DIRECTORY", tmp_path)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.05)
    return released


def _is_waiting(url: str) -> bool:
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'icmp-migrate' AND wait_event_type = 'Lock'"
    return bool(asked(url, waits))


def test_a_migration_gives_way_to_requests_while_it_waits_for_a_table(later: str) -> None:
    reader = psycopg2.connect(later)
    with ThreadPoolExecutor(1) as threads, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM products")
        runner = threads.submit(migrate.apply, later)
        until(lambda: _is_waiting(later))
        # Behind a waiting migration without a limit these would wait for the reader too, which never ends.
        for _ in range(5):
            assert asked(later, "SET lock_timeout = '10s'; SELECT count(*) FROM products") == [(1,)]
        assert not runner.done()
        reader.rollback()
        assert [each.name for each in runner.result(60)] == ["later"]
    reader.close()


def test_of_a_migration_and_a_request_that_wait_for_each_other_the_migration_gives_way(later: str) -> None:
    request = psycopg2.connect(later)
    with ThreadPoolExecutor(1) as threads, request.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM products")
        runner = threads.submit(migrate.apply, later)
        for _ in range(3):
            # The migration has the turns and waits for the products, which the request has: now it wants the turns.
            until(lambda: _is_waiting(later))
            cursor.execute("SELECT count(*) FROM turns")
        request.commit()
        assert [each.name for each in runner.result(60)] == ["later"]
    request.close()


def test_a_migration_that_never_gets_its_table_fails_and_changes_nothing(
    later: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "TRIES", 3)
    reader = psycopg2.connect(later)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM products")
            with pytest.raises(db.DatabaseUnavailable, match="LockNotAvailable"):
                migrate.apply(later)
    finally:
        reader.close()
    assert asked(later, "SELECT version FROM schema_migrations WHERE version = 9000") == []
    assert [each.name for each in migrate.apply(later)] == ["later"]


@pytest.mark.parametrize("sql", statements.BREAKING)
def test_what_would_break_the_running_release_is_recognised(sql: str) -> None:
    assert statements.breaking(sql)


@pytest.mark.parametrize("sql", statements.HARMLESS)
def test_what_only_adds_is_allowed(sql: str) -> None:
    assert statements.breaking(sql) == []


def test_migrations_only_add_so_that_the_release_before_goes_on_running() -> None:
    newer = [each for each in migrate.available() if each.version > 1]
    found = {each.name: statements.breaking(each.sql) for each in newer}
    assert found
    assert {name: pieces for name, pieces in found.items() if pieces} == {}
