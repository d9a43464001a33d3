"""A database of one test's own, for what would disturb the others: its keys are changed, or its tables are watched."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from flask import Flask

import app as application
from api.settings import Settings
from db import migrate
from tests.conftest import MASTER_KEY, Answer, Client
from tests.database import asked

Serve = Callable[[Flask], int]


@dataclass(frozen=True)
class OwnDatabase:
    """A migrated database and the apps that work on it."""

    settings: Settings
    serve: Serve
    apps: list[Flask] = field(default_factory=list)

    def app(self, **changes: Any) -> Flask:
        """An app with nothing in its memory yet."""
        app = application.create_app(replace(self.settings, **changes))
        app.config["CHECK_REPLIES"] = True
        self.apps.append(app)
        return app

    def close(self) -> None:
        """Close the idle connections of every app: the server has few."""
        for app in self.apps:
            app.extensions["icmp"].database.close()

    def master(self, **changes: Any) -> Client:
        """The master key's client of such an app behind a server."""
        return Client(self.serve(self.app(**changes)), MASTER_KEY)

    def get(self, path: str, key: str | None = None, **changes: Any) -> Answer:
        """What such an app answers, without a server in between."""
        app = self.app(**changes)
        got = app.test_client().get(path, headers={"Authorization": f"Bearer {key}"} if key else {})
        self.close()
        return Answer(got.status_code, dict(got.headers), got.get_json())

    def run(self, *arguments: str, **changes: Any) -> tuple[int, str]:
        """A command in such an app: its exit code and what it printed."""
        result = self.app(**changes).test_cli_runner().invoke(args=list(arguments))
        self.close()
        return result.exit_code, result.output

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """A question to the database as its owner, past row-level security."""
        return asked(self.settings.database_url, statement, *values)


@contextmanager
def made(settings: Settings, serve: Serve) -> Iterator[OwnDatabase]:
    """A new database on the test's server until the end of the block."""
    name = f"own_{uuid.uuid4().hex}"
    asked(settings.database_url, f"CREATE DATABASE {name}")
    url = urlsplit(settings.database_url)._replace(path=f"/{name}").geturl()
    try:
        migrate.apply(url)
        house = OwnDatabase(replace(settings, database_url=url, migration_database_url=url), serve)
        yield house
        house.close()
    finally:
        asked(settings.database_url, f"DROP DATABASE {name} WITH (FORCE)")
