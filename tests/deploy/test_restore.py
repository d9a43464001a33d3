"""The restore drill: dump, lose everything, restore, compare; and back to a moment before an accident."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask

import app as application
from api.settings import Settings
from db import embedded, migrate
from tests.conftest import MASTER_KEY, Client
from tests.database import asked
from tests.db.releases import record
from tests.waiting import until

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'rate_buckets' ORDER BY 1"
# A checksum that does not depend on the order of the rows.
CHECKSUM = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM public.{} t"
BACKUP_LOGIN = "CREATE ROLE icmp_backup LOGIN BYPASSRLS; GRANT pg_read_all_data TO icmp_backup"
OTHER_KEY = (("k1", bytes(32)),)


@pytest.fixture
def told() -> dict[str, Any]:
    """What is known of the data that is lost and restored."""
    found: dict[str, Any] = json.loads(record.FILE.read_text(encoding="utf-8").partition("\n")[0].removeprefix("-- "))
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of its own, with data."""
    with embedded.running(tmp_path / "pg", durable=False) as url:
        _fill(url)
        yield url


@pytest.fixture
def serve_on(settings: Settings, serve: Callable[[Flask], int]) -> Callable[[str], int]:
    """Serves the app over a database; its port."""
    return lambda url: serve(application.create_app(replace(settings, database_url=url)))


def _fill(url: str) -> None:
    migrate.apply(url)
    asked(url, f"TRUNCATE global_templates, platform_secrets; {record.FILE.read_text(encoding='utf-8')}")


def _program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(embedded.programs_folder() / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _checksums(url: str) -> dict[str, tuple[Any, ...]]:
    return {table: asked(url, CHECKSUM.format(table))[0] for (table,) in asked(url, TABLES)}


def _reads_an_old_turn(port: int, told: dict[str, Any]) -> bool:
    shop = Client(port, told["api_key"])
    turn = shop.get(f"/api/v1/turns/{told['turn_id']}")
    messages = shop.get(f"/api/v1/conversations/{told['conversation_id']}/messages")
    texts = [each["message_content"] for each in messages.body if each["sender_type"] == "ai"]
    return (turn.body["state"], texts[::-1]) == ("done", told["responses"])


def test_a_dump_restores_every_row_and_an_old_turn_is_read_over_the_api(
    server: str, told: dict[str, Any], serve_on: Callable[[str], int], tmp_path: Path, settings: Settings
) -> None:
    asked(server, BACKUP_LOGIN)
    before = _checksums(server)
    assert before["messages"][0] >= 6
    dump = str(tmp_path / "icmp.dump")
    login = urlsplit(server)._replace(netloc="icmp_backup@").geturl()
    done = _program("pg_dump", "--format=custom", f"--file={dump}", login)
    assert (done.returncode, done.stderr) == (0, "")
    # Lost: the database with everything in it. The roles belong to the server.
    maintenance = urlsplit(server)._replace(path="/postgres").geturl()
    asked(maintenance, "DROP DATABASE icmp WITH (FORCE)")
    asked(maintenance, "CREATE DATABASE icmp")
    done = _program("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={server}", dump)
    assert (done.returncode, done.stderr) == (0, "")
    assert _checksums(server) == before
    assert migrate.apply(server) == []
    assert _reads_an_old_turn(serve_on(server), told)
    # Whoever has the backup without the key has nothing.
    keyless = application.create_app(replace(settings, database_url=server, encryption_keys=OTHER_KEY))
    assert keyless.test_client().get("/readyz").status_code == 503


def test_a_login_under_row_level_security_cannot_make_a_partial_backup(server: str) -> None:
    asked(server, "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader")
    login = urlsplit(server)._replace(netloc="reader@").geturl()
    done = _program("pg_dump", "--format=plain", login)
    assert done.returncode != 0
    assert "row-level security" in done.stderr


def test_the_database_goes_back_to_the_moment_before_an_accident(
    tmp_path: Path, told: dict[str, Any], serve_on: Callable[[str], int]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with embedded.running(first):
        pass
    archive = first / "archive"
    _configure(first / "cluster", archive_mode="on", archive_command=f"cp %p {archive}/%f")
    archive.mkdir()
    _give(archive, first / "cluster")
    with embedded.running(first) as url:
        _fill(url)
        second.mkdir()
        done = _program("pg_basebackup", f"--pgdata={second / 'cluster'}", f"--dbname={url}", "--checkpoint=fast")
        assert done.returncode == 0, done.stderr
        port = serve_on(url)
        said = {"user_id": told["user_id"], "message": "Is the bakery open on Sundays?"}
        reply = Client(port, told["api_key"]).post("/api/v1/messages", said).body
        moment = asked(url, "SELECT clock_timestamp()::text")[0][0]
        time.sleep(0.1)
        # The accident.
        assert Client(port, MASTER_KEY).delete(f"/api/v1/businesses/{told['business_id']}").status == 204
        assert Client(port, told["api_key"]).get("/api/v1/stages").status == 401
        asked(url, "SELECT pg_switch_wal()")
    _configure(
        second / "cluster",
        restore_command=f"cp {archive}/%f %p",
        recovery_target_time=moment,
        recovery_target_action="promote",
        archive_mode="off",
    )
    (second / "cluster" / "recovery.signal").touch()
    _give(second / "cluster", first / "cluster")
    with embedded.running(second) as url:
        until(lambda: asked(url, "SELECT pg_is_in_recovery()") == [(False,)])
        port = serve_on(url)
        assert _reads_an_old_turn(port, told)
        kept = Client(port, told["api_key"]).get(f"/api/v1/messages/{reply['message_id']}")
        assert kept.body["message_content"] == said["message"]


def _configure(cluster: Path, **settings: str) -> None:
    lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    with (cluster / "postgresql.auto.conf").open("a") as file:
        file.write(lines)


def _give(folder: Path, example: Path) -> None:
    """To the account that the example belongs to: the server does not run as root."""
    found = example.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, found.st_uid, found.st_gid)
    shutil.copymode(example, folder)
