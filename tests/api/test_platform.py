"""Is it up, is it ready, what is it: told truthfully, also when the database is not."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask

import app as application
from api.settings import Settings
from db import migrate
from tests.conftest import Client

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def empty_database(database_url: str, sql: Ask) -> Iterator[str]:
    """The address of a database without any table of ours."""
    name = f"empty_{uuid.uuid4().hex}"
    sql(f"CREATE DATABASE {name}")
    yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
    sql(f"DROP DATABASE {name} WITH (FORCE)")


def _served(settings: Settings, serve: Callable[[Flask], int], **changes: Any) -> Client:
    return Client(serve(application.create_app(replace(settings, **changes))))


def test_the_root_says_welcome(anybody: Client) -> None:
    answer = anybody.get("/")
    assert (answer.status, answer.body) == (200, "Welcome to ICMP!")


def test_an_answer_without_a_body_claims_no_kind_of_content(anybody: Client, alice: Client) -> None:
    key = alice.post(f"/api/v1/businesses/{alice.business_id}/api-keys", {}).body["key_id"]
    empty = [
        anybody.call("OPTIONS", "/api/v1/stages"),
        anybody.call("POST", "/api/clear-config"),
        alice.delete(f"/api/v1/businesses/{alice.business_id}/api-keys/{key}"),
    ]
    assert [answer.status for answer in empty] == [200, 204, 204]
    assert [answer.headers["Content-Type"] for answer in empty if "Content-Type" in answer.headers] == []
    assert anybody.call("OPTIONS", "/nowhere").headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/healthz", None),
        ("GET", "/docs", None),
        ("GET", "/nowhere", None),
        ("GET", "/api/v1/stages", None),
        ("DELETE", "/api/v1/stages", None),
        ("OPTIONS", "/api/v1/stages", None),
        ("POST", "/api/v1/messages", b"{"),
        ("POST", "/api/v1/messages", b'{"user_id": "9b1f7a52-0c43-4b0e-8a3c-2d5a4f1e7c10", "message": "hi"}'),
    ],
)
def test_no_answer_says_the_same_header_twice(alice: Client, method: str, path: str, body: bytes | None) -> None:
    for key in (f"Bearer {alice.key}", "Bearer wrong"):
        headers = {"Authorization": key, "Content-Type": "application/json", "Accept": "text/event-stream"}
        connection = HTTPConnection("127.0.0.1", alice.port, timeout=30)
        connection.request(method, path, body, headers)
        names = Counter(name.lower() for name, _ in connection.getresponse().getheaders())
        connection.close()
        assert [name for name, count in names.items() if count > 1 and name != "vary"] == []
        assert {"x-request-id", "x-content-type-options", "cache-control", "content-security-policy"} <= names.keys()


def test_a_running_server_is_ready(anybody: Client) -> None:
    answer = anybody.get("/readyz")
    assert answer.status == 200
    assert answer.body == {
        "status": "ok",
        "checks": {"database": "ok", "migrations": "ok", "encryption_key": "ok"},
    }


def test_without_a_database_it_is_alive_and_not_ready(settings: Settings, serve: Callable[[Flask], int]) -> None:
    alone = _served(settings, serve, database_url=NOWHERE)
    assert [alone.get(path).status for path in ("/", "/healthz", "/openapi.json", "/docs/")] == [200] * 4
    answer = alone.get("/readyz")
    assert (answer.status, answer.body) == (503, {"status": "unavailable", "checks": {"database": "unavailable"}})


def test_without_any_migration_it_is_not_ready(
    settings: Settings, serve: Callable[[Flask], int], empty_database: str
) -> None:
    answer = _served(settings, serve, database_url=empty_database).get("/readyz")
    assert (answer.status, answer.body["status"]) == (503, "unavailable")


def test_one_migration_short_it_is_not_ready_and_says_so(
    settings: Settings, serve: Callable[[Flask], int], empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.apply(empty_database)
    newer = migrate.Migration(9999, "of_the_next_release", "SELECT 1")
    known = [*migrate.available(), newer]
    monkeypatch.setattr(migrate, "available", lambda: known)
    answer = _served(settings, serve, database_url=empty_database).get("/readyz")
    assert (answer.status, answer.body["checks"]["migrations"]) == (503, "behind")


def test_with_another_encryption_key_it_is_not_ready_and_says_so(
    settings: Settings, serve: Callable[[Flask], int], anybody: Client
) -> None:
    assert anybody.get("/readyz").status == 200  # the database now holds secrets under the right key
    other_key = (settings.encryption_keys[0][0], bytes(32))
    answer = _served(settings, serve, encryption_keys=(other_key,)).get("/readyz")
    assert (answer.status, answer.body["checks"]["encryption_key"]) == (503, "does not fit the data")


def test_the_documentation_is_a_page_whose_files_we_serve(anybody: Client) -> None:
    for path in ("/docs", "/docs/"):
        page = anybody.get(path)
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    files = re.findall(r'(?:src|href)="([^"]+)"', page.body)
    assert len(files) >= 5
    for file in files:
        assert file.startswith("/docs/"), f"{file} would come from elsewhere"
    for file in (file for file in files if not file.endswith(".png")):
        answer = anybody.get(file)
        assert answer.status == 200
        assert answer.headers["Content-Type"].split(";")[0] in {"text/javascript", "text/css"}


def test_the_documentation_is_there_to_be_read(anybody: Client) -> None:
    for path in ("/docs", "/docs/"):
        answer = anybody.post(path, {})
        assert (answer.status, answer.error_code) == (405, "METHOD_NOT_ALLOWED")
        assert "GET" in answer.headers["Allow"]


def test_the_documentation_may_load_nothing_from_elsewhere(anybody: Client) -> None:
    page = anybody.get("/docs/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed <= {"'self'", "'unsafe-inline'", "data:"}
    assert '"validatorUrl": null' in page.body, "the page would show the document to a stranger's server"


def test_the_documentation_page_repeats_nothing_of_the_request(anybody: Client) -> None:
    page = anybody.get("/docs/", Host="evil.example")
    assert "evil.example" not in str(page.body)


def test_the_documentation_serves_its_own_files_only(anybody: Client) -> None:
    for path in ("/docs/no-such-file.js", "/docs/../app.py", "/docs/%2e%2e/app.py", "/docs/..%2f..%2fapp.py"):
        answer = anybody.get(path)
        assert (answer.status, answer.error_code) == (404, "NOT_FOUND")
