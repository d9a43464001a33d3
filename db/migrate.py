"""Apply the migrations that a database does not have yet: in order, recorded, one runner at a time."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import NamedTuple

import psycopg2
from psycopg2 import errors

from db import Connection, execute, fetch_all, translated

DIRECTORY = Path(__file__).parent.parent / "migrations"
_LOCK = 4_930_158_211  # any number that nobody else locks in this database
# Requests queue behind a migration that waits for a table, and may hold what it waits for. So it waits for less than
# the second after which PostgreSQL looks for deadlocks, which could cost the request; lets everybody pass; and tries
# again, for some minutes. Then the deployment fails, and nothing is changed.
LOCK_TIMEOUT_MS = 300
PAUSE_SECONDS = 1.0
TRIES = 150
OLDEST_SERVER = 15  # what Debian 12 has; an older one was not tried


class Migration(NamedTuple):
    """One file of migrations/, e.g. 0001_initial.sql: version 1, name `initial`."""

    version: int
    name: str
    sql: str


def available() -> list[Migration]:
    """The migrations this code knows, oldest first."""
    found = []
    for path in sorted(DIRECTORY.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", path.name)
        if match is None:
            raise ValueError(f"{path.name} is not named like 0001_what_it_does.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if len({migration.version for migration in found}) < len(found):
        raise ValueError("two migrations have the same number: the second would never run")
    return found


def apply(url: str) -> list[Migration]:
    """Bring the database at `url` (its owner's login) up to date; the migrations applied now.
    Any number of runners may call it at once, under traffic. Raises DatabaseUnavailable, also when a table stays
    locked by others for too long, and for a server that is too old."""
    with translated():
        connection = psycopg2.connect(url, connect_timeout=5, application_name="icmp-migrate")
        try:
            return _apply_missing(connection)
        finally:
            connection.close()


def _apply_missing(connection: Connection) -> list[Migration]:
    major, minor = divmod(connection.server_version, 10_000)
    if major < OLDEST_SERVER:
        raise psycopg2.OperationalError(
            f"the server is PostgreSQL {major}.{minor}, and {OLDEST_SERVER} or newer is needed"
        )
    return [migration for migration in available() if _apply_patiently(connection, migration)]


def _apply_patiently(connection: Connection, migration: Migration) -> bool:
    for _ in range(TRIES - 1):
        try:
            return _apply_once(connection, migration)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))
    return _apply_once(connection, migration)


def _apply_once(connection: Connection, migration: Migration) -> bool:
    # One transaction a migration, and the lock in each: a runner that dies leaves nothing half done or locked.
    with connection:
        execute(connection, "SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        execute(connection, _CAREFUL, [str(LOCK_TIMEOUT_MS)])
        execute(connection, _TABLE)
        if migration.version in _applied(connection):
            return False
        execute(connection, migration.sql)
        execute(connection, _RECORD, [migration.version, migration.name])
    return True


def _applied(conn: Connection) -> set[int]:
    return {row[0] for row in fetch_all(conn, "SELECT version FROM schema_migrations")}


def missing(conn: Connection) -> list[int]:
    """Versions this code needs that the database lacks. A newer schema than the code is fine (rolling upgrades)."""
    return sorted({migration.version for migration in available()} - _applied(conn))


# Set after the lock of the runners: they wait for each other as long as it takes.
_CAREFUL = """
    SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', '0', true),
           set_config('client_min_messages', 'warning', true)
"""
_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())
"""
_RECORD = "INSERT INTO schema_migrations (version, name) VALUES (%s, %s)"
