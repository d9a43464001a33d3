"""Migrations on servers and databases of their own: from empty, again, at once, half-way, without a superuser."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import app as application
import db
from api.settings import Settings
from db import embedded, migrate
from tests.database import asked

EVERY_VERSION = [migration.version for migration in migrate.available()]
RELATIONS = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that was never migrated, so that it has no roles of ours either."""
    with embedded.running(Path(tmp_path_factory.mktemp("pg")) / "data", durable=False) as url:
        yield url


@pytest.fixture
def new_database(server: str) -> Callable[..., str]:
    """Makes an empty database, for an owner if one is named; its address."""

    def make(owner: str = "postgres") -> str:
        name = f"d_{uuid.uuid4().hex}"
        asked(server, f"CREATE DATABASE {name} OWNER {owner}")
        return server.replace("/icmp?", f"/{name}?").replace("postgres@", f"{owner}@")

    return make


@pytest.fixture
def empty(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations to add to."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrate.DIRECTORY, copy)
    monkeypatch.setattr(migrate, "DIRECTORY", copy)
    return copy


def _login(server: str, options: str) -> str:
    name = f"login_{uuid.uuid4().hex}"
    asked(server, f"CREATE ROLE {name} LOGIN {options}")
    return name


def _readiness(settings: Settings, url: str) -> tuple[int, dict[str, Any]]:
    app = application.create_app(replace(settings, database_url=url))
    answer = app.test_client().get("/readyz")
    return answer.status_code, answer.get_json()["checks"]


# The first test of this file: it alone meets the server without roles.
def test_an_owner_without_superuser_migrates_a_virgin_server(
    server: str, new_database: Callable[..., str], settings: Settings
) -> None:
    assert asked(server, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'icmp%'") == [(0,)]
    assert _readiness(settings, server) == (503, {"database": "unavailable"})
    owner = _login(server, "CREATEROLE")
    url = new_database(owner)
    assert [migration.version for migration in migrate.apply(url)] == EVERY_VERSION
    database = db.Database(url, pool_size=1)
    business_id, user_id = str(uuid.uuid4()), str(uuid.uuid4())
    with database.transaction(business_id) as conn:
        db.execute(conn, "INSERT INTO users (user_id) VALUES (%s)", [user_id])
        statement = "INSERT INTO businesses (business_id, owner_id, business_name) VALUES (%s, %s, 'Lamps')"
        db.execute(conn, statement, [business_id, user_id])
    database.close()
    # Forced: the owner of the tables sees no tenant's rows either.
    assert asked(url, "SELECT count(*) FROM businesses") == [(0,)]
    assert _readiness(settings, url)[0] == 200


def test_an_owner_who_was_given_the_roles_migrates_beside_another_database(
    server: str, new_database: Callable[..., str], empty: str, settings: Settings
) -> None:
    migrate.apply(empty)
    owner = _login(server, "NOCREATEROLE")
    asked(server, f"GRANT icmp_app, icmp_lookup TO {owner} WITH SET TRUE, INHERIT FALSE")
    url = new_database(owner)
    assert [migration.version for migration in migrate.apply(url)] == EVERY_VERSION
    assert _readiness(settings, url)[0] == 200


def test_an_app_login_that_has_only_the_role_can_serve(server: str, empty: str, settings: Settings) -> None:
    migrate.apply(empty)
    login = _login(server, "NOINHERIT")
    asked(server, f"GRANT icmp_app TO {login} WITH SET TRUE, INHERIT FALSE")
    assert _readiness(settings, empty.replace("postgres@", f"{login}@"))[0] == 200


def test_a_second_run_changes_nothing(empty: str) -> None:
    assert [migration.version for migration in migrate.apply(empty)] == EVERY_VERSION
    relations = asked(empty, RELATIONS)
    assert migrate.apply(empty) == []
    assert asked(empty, RELATIONS) == relations


def test_ten_runners_at_once_apply_each_migration_once(empty: str) -> None:
    with ThreadPoolExecutor(10) as threads:
        done = list(threads.map(migrate.apply, [empty] * 10))
    assert sorted(migration.version for each in done for migration in each) == EVERY_VERSION
    assert asked(empty, "SELECT version FROM schema_migrations ORDER BY 1") == [(version,) for version in EVERY_VERSION]


def test_a_migration_that_fails_leaves_nothing_and_can_be_repaired(empty: str, folder: Path) -> None:
    migrate.apply(empty)
    relations = asked(empty, RELATIONS)
    later = folder / "9000_later.sql"
    later.write_text("CREATE TABLE half (n integer); INSERT INTO half VALUES (1 / 0);")
    with pytest.raises(psycopg2.errors.DivisionByZero):
        migrate.apply(empty)
    assert asked(empty, RELATIONS) == relations
    later.write_text("CREATE TABLE half (n integer);")
    assert [migration.name for migration in migrate.apply(empty)] == ["later"]


def test_files_that_would_be_skipped_are_refused(folder: Path) -> None:
    (folder / "9000_one.sql").write_text("SELECT 1")
    (folder / "9000_two.sql").write_text("SELECT 2")
    with pytest.raises(ValueError, match="same number"):
        migrate.available()
    (folder / "9000_two.sql").rename(folder / "10_two.sql")
    with pytest.raises(ValueError, match=r"10_two\.sql is not named"):
        migrate.available()


def test_a_missing_migration_is_not_ready_and_a_newer_schema_is(empty: str, folder: Path, settings: Settings) -> None:
    migrate.apply(empty)
    later = folder / "9000_later.sql"
    later.write_text("CREATE TABLE later (n integer)")
    assert _readiness(settings, empty) == (503, {"database": "ok", "migrations": "behind"})
    migrate.apply(empty)
    assert _readiness(settings, empty)[0] == 200
    # A rolling upgrade: the old code meets the schema of the new one.
    later.unlink()
    assert _readiness(settings, empty)[0] == 200


def test_a_database_without_migrations_is_unavailable_and_no_fault(empty: str, settings: Settings) -> None:
    assert _readiness(settings, empty) == (503, {"database": "unavailable"})
    client = application.create_app(replace(settings, database_url=empty)).test_client()
    master = {"Authorization": f"Bearer {settings.icmp_api_key}"}
    event = {"event_id": str(uuid.uuid4()), "business_id": str(uuid.uuid4()), "event_type": "view"}
    business = {"owner_id": str(uuid.uuid4()), "business_name": "Lamps"}
    answers = (
        client.get("/api/v1/businesses", headers=master),
        client.post("/api/v1/businesses", headers=master, json=business),
        client.post("/api/v1/events", json=event | {"event_timestamp": "2026-01-02T03:04:05Z"}),
    )
    assert [(each.status_code, each.get_json()["error_code"]) for each in answers] == [
        (503, "DATABASE_UNAVAILABLE")
    ] * len(answers)
    assert client.get("/healthz").status_code == 200
