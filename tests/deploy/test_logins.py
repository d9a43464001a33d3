"""deploy/postgres/logins.sql: an owner that migrates and a login for the app that has nothing but its role."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

import app as application
from api.launch import PROJECT
from api.settings import Settings
from db import embedded, migrate

SCRIPT = PROJECT / "deploy" / "postgres" / "logins.sql"


@pytest.fixture(params=["postgres", "administrator"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A virgin server, as its administrator: a superuser, or one like that of RDS, who is none."""
    with embedded.running(Path(tmp_path_factory.mktemp("pg")) / "data", durable=False) as url:
        if request.param != "postgres":
            with psycopg2.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE ROLE administrator LOGIN CREATEROLE CREATEDB")
                cursor.execute("ALTER DATABASE icmp OWNER TO administrator")
        yield _as(url, request.param)


def _as(url: str, login: str) -> str:
    return urlsplit(url)._replace(netloc=f"{login}@").geturl()


def _make_logins(url: str) -> None:
    values = ("owner_password=o'ne", "web_password=t wo", "database=icmp")
    command = [str(embedded.programs_folder() / "psql"), "--no-psqlrc", "--quiet", f"--file={SCRIPT}"]
    done = subprocess.run(
        [*command, *(f"--set={value}" for value in values), url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_owner_migrates_and_the_app_serves_with_nothing_but_its_role(server: str, settings: Settings) -> None:
    _make_logins(server)
    owner, web = _as(server, "icmp_owner"), _as(server, "icmp_web")
    assert [each.version for each in migrate.apply(owner)] == [each.version for each in migrate.available()]
    app = application.create_app(replace(settings, database_url=web, migration_database_url=owner))
    assert app.test_client().get("/readyz").status_code == 200
    with psycopg2.connect(web) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("SELECT business_id FROM public.businesses")
