"""A real PostgreSQL, a real HTTP server and the cast: Alice and Charlie own a business each, and must not meet."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask import Flask
from werkzeug.serving import make_server

import app as application
from api import keeper
from api.settings import Settings, from_environment
from db import embedded, migrate
from tests import redis_server

MASTER_KEY = "test-master-key-of-32-characters-or-more"
ENVIRONMENT = {
    "ICMP_API_KEY": MASTER_KEY,
    "ENCRYPTION_KEY": "k1:" + base64.b64encode(bytes(range(32))).decode(),
    "ALLOWED_ORIGINS": "https://shop.example",
    "LOG_LEVEL": "WARNING",
    "RATE_LIMIT_MESSAGES_PER_MINUTE": "100000",
}


@dataclass(frozen=True)
class Answer:
    """What came back from the server."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def error_code(self) -> str:
        """The error's code; fails when the answer is no error of the one shape."""
        assert set(self.body) == {"error_code", "message", "details", "remediation", "request_id"}, self.body
        return str(self.body["error_code"])


@dataclass(frozen=True)
class Client:
    """Somebody who calls the API, with a key or without."""

    port: int
    key: str | None = None
    business_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: Any) -> Answer:
        """One request; `body` goes out as JSON, `raw` as it is; header names with _ for -."""
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.key is not None:
            sent.setdefault("Authorization", f"Bearer {self.key}")
        if body is not None or raw is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method, path, raw if raw is not None else None if body is None else json.dumps(body), sent
            )
            response = connection.getresponse()
            text = response.read()
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            return Answer(response.status, dict(response.headers), json.loads(text) if is_json else text.decode())
        finally:
            connection.close()

    def get(self, path: str, **headers: Any) -> Answer:
        """GET."""
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: Any) -> Answer:
        """POST JSON."""
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: Any) -> Answer:
        """PATCH JSON."""
        return self.call("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: Any) -> Answer:
        """DELETE."""
        return self.call("DELETE", path, **headers)


@pytest.fixture(scope="session", autouse=True)
def _no_keepers() -> Iterator[None]:
    """The apps of the tests share a database: one must not take over the turns of another one, whose model is
    scripted. Servers in processes of their own have their keepers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper.Keeper, "start", lambda _self, _resume: None)
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The owner's address of an empty server of this test process."""
    with embedded.running(Path(tmp_path_factory.mktemp("pg")) / "data", durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def database_url(postgres: str) -> str:
    """The address of a migrated database."""
    migrate.apply(postgres)
    return postgres


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis of this test process."""
    with redis_server.running(Path(tmp_path_factory.mktemp("redis"))) as server:
        yield server.url


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    """The settings of the app under test."""
    return from_environment(ENVIRONMENT | {"DATABASE_URL": database_url})


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Flask], int]]:
    """Serves an app over HTTP until the end of the tests and gives its port."""
    servers = []

    def start(app: Flask) -> int:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.port)

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="session")
def flask_app(settings: Settings) -> Flask:
    """The app, which checks its own replies against the contract."""
    app = application.create_app(settings)
    app.config["CHECK_REPLIES"] = True
    return app


@pytest.fixture(scope="session")
def port(flask_app: Flask, serve: Callable[[Flask], int]) -> int:
    """Where the app answers."""
    return serve(flask_app)


@pytest.fixture
def anybody(port: int) -> Client:
    """Without a key."""
    return Client(port)


@pytest.fixture
def master(port: int) -> Client:
    """With the master key."""
    return Client(port, MASTER_KEY)


@pytest.fixture
def alice(master: Client) -> Client:
    """Owner of a business, with its first key."""
    return onboard(master, "Alice's Books")


@pytest.fixture
def charlie(master: Client) -> Client:
    """Owner of another business, who must never see anything of Alice's."""
    return onboard(master, "Charlie's Cars")


@pytest.fixture
def sql(database_url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Questions to the database as its owner, past row-level security."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def ask(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    yield ask
    connection.close()


def onboard(master: Client, name: str, **fields: Any) -> Client:
    """A new business and the client of its first key."""
    body = {"owner_id": str(uuid.uuid4()), "business_name": f"{name} {uuid.uuid4().hex[:8]}", **fields}
    created = master.post("/api/v1/businesses", body)
    assert created.status == 201, created.body
    return Client(master.port, created.body["api_key"], created.body["business_id"])
