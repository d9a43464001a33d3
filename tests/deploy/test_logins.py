"""deploy/postgres/logins.sql: an owner that migrates and a login for the app that has nothing but its role."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
from flask import Flask

import app as application
from api.launch import PROJECT
from api.settings import Settings
from db import embedded, migrate
from tests import older_server
from tests.api import shop
from tests.conftest import MASTER_KEY, Client, onboard

SCRIPT = PROJECT / "deploy" / "postgres" / "logins.sql"


@pytest.fixture(params=["postgres", "administrator", "postgres of the oldest", "administrator of the oldest"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A virgin server, as its administrator: a superuser, or one like that of RDS, who is none."""
    administrator, _, age = request.param.partition(" of the ")
    data_dir = Path(tmp_path_factory.mktemp("pg")) / "data"
    if age:
        older_server.instead(monkeypatch, data_dir)
    with embedded.running(data_dir, durable=False) as url:
        if administrator != "postgres":
            with psycopg2.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE ROLE administrator LOGIN CREATEROLE CREATEDB")
                cursor.execute("ALTER DATABASE icmp OWNER TO administrator")
        yield _as(url, administrator)


def _as(url: str, login: str) -> str:
    return urlsplit(url)._replace(netloc=f"{login}@").geturl()


def _make_logins(url: str) -> None:
    values = ("owner_password=o'ne", "web_password=t wo", "database=icmp")
    command = [str(embedded.programs_folder() / "psql"), "--no-psqlrc", "--quiet", f"--file={SCRIPT}"]
    done = subprocess.run(
        [*command, *(f"--set={value}" for value in values), url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_owner_migrates_and_the_app_serves_with_nothing_but_its_role(
    server: str, settings: Settings, serve: Callable[[Flask], int]
) -> None:
    _make_logins(server)
    owner, web = _as(server, "icmp_owner"), _as(server, "icmp_web")
    assert [each.version for each in migrate.apply(owner)] == [each.version for each in migrate.available()]
    app = application.create_app(replace(settings, database_url=web, migration_database_url=owner))
    assert app.test_client().get("/readyz").status_code == 200
    client = onboard(Client(serve(app), MASTER_KEY), "Alice's Books")
    shop.furnish(client, shop.ORDER_STATUS, shop.SMALL_TALK)
    body = {"user_id": str(uuid.uuid4()), "message": "Where is my order 4411?"}
    first, again = (client.post("/api/v1/messages", body, Idempotency_Key="once") for _ in range(2))
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    ledger = client.get(f"/api/v1/turns/{first.body['turn_id']}")
    assert [step["outcome"] for step in ledger.body["steps"]].count("ok") >= 2
    assert len(client.get(f"/api/v1/conversations/{first.body['conversation_id']}/messages").body) == 2
    with psycopg2.connect(web) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("SELECT business_id FROM public.businesses")
    with psycopg2.connect(owner) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM businesses) + (SELECT count(*) FROM audit_log)")
        assert cursor.fetchone() == (0,)
