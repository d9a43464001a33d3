"""The command line, as an operator meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask

import app as application
from api import launch
from api.settings import Settings
from db import embedded
from tests.conftest import ENVIRONMENT, Client

# Empty counts as not set, and keeps a developer's .env out.
NO_DATABASE = dict.fromkeys(("DATABASE_URL", "DB_HOST", "MIGRATION_DATABASE_URL"), "")


def _flask(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *arguments],
        env={"PATH": os.environ["PATH"], **ENVIRONMENT, **NO_DATABASE, **environment},
        cwd=launch.PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_migrate_says_when_nothing_is_left_to_do(flask_app: Flask) -> None:
    result = flask_app.test_cli_runner().invoke(args=["migrate"])
    assert (result.exit_code, result.output) == (0, "the database is up to date\n")


def test_migrate_names_each_migration_that_it_applied(
    settings: Settings, database_url: str, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    name = f"fresh_{uuid.uuid4().hex}"
    sql(f"CREATE DATABASE {name}")
    try:
        fresh = urlsplit(database_url)._replace(path=f"/{name}").geturl()
        runner = application.create_app(replace(settings, migration_database_url=fresh)).test_cli_runner()
        first, second = runner.invoke(args=["migrate"]), runner.invoke(args=["migrate"])
    finally:
        sql(f"DROP DATABASE {name} WITH (FORCE)")
    assert first.output.splitlines()[0] == "applied 0001 initial"
    assert second.output == "the database is up to date\n"


def test_migrate_without_a_database_fails_in_one_line_that_names_the_variable(settings: Settings) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    broken = application.create_app(replace(settings, migration_database_url=nowhere))
    result = broken.test_cli_runner().invoke(args=["migrate"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: MIGRATION_DATABASE_URL or DATABASE_URL: ")
    assert "Traceback" not in result.output


def test_a_server_that_is_too_old_is_refused_in_one_line(flask_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.migrate.OLDEST_SERVER", 99)
    result = flask_app.test_cli_runner().invoke(args=["migrate"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: MIGRATION_DATABASE_URL or DATABASE_URL: the server is PostgreSQL 18.")
    assert result.output.endswith(", and 99 or newer is needed\n")


@pytest.mark.parametrize(
    "arguments",
    [["create-business", "Shop"], ["rotate-keys"], ["export-config", str(uuid.uuid4())], ["purge", "--ended-sessions"]],
)
def test_a_database_that_is_away_is_one_line_that_names_the_variable(settings: Settings, arguments: list[str]) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    result = application.create_app(replace(settings, database_url=nowhere)).test_cli_runner().invoke(args=arguments)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: DATABASE_URL or DB_HOST: ")


def test_create_business_prints_a_key_that_works(flask_app: Flask, port: int) -> None:
    result = flask_app.test_cli_runner().invoke(args=["create-business", f"Shop {uuid.uuid4().hex}"])
    assert result.exit_code == 0
    printed = dict(line.split() for line in result.output.splitlines())
    seen = Client(port, printed["api_key"]).get(f"/api/v1/businesses/{printed['business_id']}")
    assert seen.status == 200


def test_create_business_refuses_a_taken_name_and_a_wrong_owner(flask_app: Flask, alice: Client) -> None:
    runner = flask_app.test_cli_runner()
    name = alice.get(f"/api/v1/businesses/{alice.business_id}").body["business_name"]
    for arguments, reason in (([name], "business_name"), (["Shop", "--owner-id", "me"], "owner_id")):
        result = runner.invoke(args=["create-business", *arguments])
        assert result.exit_code == 1
        assert reason in result.output
        assert "Traceback" not in result.output


def test_openapi_writes_the_document(flask_app: Flask, tmp_path: Path, anybody: Client) -> None:
    file = tmp_path / "openapi.json"
    assert flask_app.test_cli_runner().invoke(args=["openapi", str(file)]).exit_code == 0
    assert json.loads(file.read_text(encoding="utf-8")) == anybody.get("/openapi.json").body


def test_commands_find_the_database_that_make_run_has_running(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "postgres", durable=False):
        assert "applied 0001 initial" in _flask("migrate", DATA_DIR=str(tmp_path)).stdout
        made = _flask("create-business", "Corner Shop", DATA_DIR=str(tmp_path))
    assert made.stdout.startswith("business_id "), made.stderr
    gone = _flask("create-business", "Second Shop", DATA_DIR=str(tmp_path))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith("Error: ICMP cannot start: DATABASE_URL is missing")
    assert gone.stderr.count("\n") == 1


def test_a_server_never_starts_on_a_database_that_nobody_named(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "postgres", durable=False):
        refused = _flask("run", "--port", "0", DATA_DIR=str(tmp_path))
    assert refused.returncode == application.NO_USE_TRYING_AGAIN
    assert refused.stderr.endswith("brings one along, which commands find while it runs\n")


def test_help_needs_no_settings(tmp_path: Path) -> None:
    nothing = dict.fromkeys(ENVIRONMENT, "") | {"DATA_DIR": str(tmp_path)}
    assert "import-config" in _flask("--help", **nothing).stdout
    told = _flask("purge", "--help", **nothing)
    assert (told.returncode, told.stderr) == (0, "")
    assert "--messages-older-than DAYS" in told.stdout
