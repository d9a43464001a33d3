"""A database of medium size, and a watch over what each statement of the app reads of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extensions
import pytest
from flask import Flask

import app as application
import db
from api.settings import Settings
from bench import big_database, big_rows
from tests.database import asked

PLAN = big_rows.Plan(businesses=200, messages=20_000, events=20_000, stages=50, days=365, ledger_bytes=100)
# What the generator leaves out: thirty rows for each business.
SHELVES = {
    "agents": ("agent_name", "'agent ' || n"),
    "products": ("name, description, price, currency", "'product ' || n, 'a thing', n, 'EUR'"),
    "services": ("name, price, currency, duration_minutes", "'service ' || n, n, 'EUR', 30"),
    "orders": ("order_number, items, total, currency", "'A-' || n, '[]', 1, 'EUR'"),
    "api_keys": ("name, key_hash, last4", "'key', sha256((business_id::text || n)::bytea), '0000'"),
}
MORE = (
    "INSERT INTO templates (business_id, template_id, version, kind, text)"
    " SELECT business_id, 'reply.' || n % 10, n / 10 + 1, 'response_generation', 'Answer.'"
    " FROM businesses, generate_series(0, 29) n",
    "INSERT INTO sessions (business_id, session_key_id, token_hash, key_id, expires_at)"
    " SELECT business_id, key_id, key_hash, key_id, now() + interval '1 hour' FROM api_keys",
    "INSERT INTO user_sessions (business_id, user_session_id, user_id, token_hash, password_version, expires_at)"
    " SELECT business_id, gen_random_uuid(), owner_id, sha256((business_id::text || n)::bytea), 0,"
    " now() + interval '1 hour' FROM businesses, generate_series(1, 30) n",
)
READ = """
    SELECT relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
    WHERE seq_scan + coalesce(idx_scan, 0) > 0
"""

Counts = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Read:
    """What one statement did for a request: the tables it scanned whole, and the rows it fetched of each table."""

    request: str
    sql: str
    scanned: frozenset[str]
    rows: dict[str, int]


@dataclass
class Watch:
    """Every statement that the watched app ran, and what was asked of it at that time."""

    reads: list[Read] = field(default_factory=list)
    request: str = ""

    def note(self, sql: str, before: Counts, after: Counts) -> None:
        """One more statement, with the server's counters around it; they include what functions and references did."""
        scanned = frozenset(name for name, (scans, _) in after.items() if scans > before.get(name, (0, 0))[0])
        rows = {name: rows - before.get(name, (0, 0))[1] for name, (_, rows) in after.items()}
        self.reads.append(Read(self.request, sql, scanned, rows))


def watched(settings: Settings, watch: Watch) -> Flask:
    """An app whose every statement is watched."""
    last: dict[int, Counts | None] = {}  # by connection, as its statement before has left them

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            super().execute(query, vars)
            before, after = last.get(id(self.connection)), _counters(self.connection)
            if before is not None and after is not None:
                watch.note(query.decode() if isinstance(query, bytes) else str(query), before, after)
            last[id(self.connection)] = after

    class Database(db.Database):
        def _connect(self) -> Any:
            connection = super()._connect()
            connection.cursor_factory = Cursor
            return connection

        def once(self, business_id: str | None, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
            # The counters are read in the statement's own transaction, so here it has one that lasts longer.
            with self.transaction(business_id) as conn, conn.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(db, "Database", Database)
        return application.create_app(settings)


def _counters(connection: Any) -> Counts | None:
    """Scans and fetched rows by table; None outside a transaction, where they are nobody's."""
    if connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_INTRANS:
        return None
    with connection.cursor(cursor_factory=psycopg2.extensions.cursor) as plain:
        plain.execute(READ)
        return {name: (scans, rows) for name, scans, rows in plain.fetchall()}


@contextmanager
def filled(database_url: str) -> Iterator[str]:
    """The address of a migrated and filled database beside the one of the tests."""
    name = f"plans_{uuid.uuid4().hex}"
    asked(database_url, f"CREATE DATABASE {name}")
    url = urlsplit(database_url)._replace(path=f"/{name}").geturl()
    try:
        big_database.fill(url, PLAN, (("k1", bytes(range(32))),))
        for table, (columns, values) in SHELVES.items():
            key = "key_id" if table == "api_keys" else f"{table.removesuffix('s')}_id"
            asked(
                url,
                f"INSERT INTO {table} (business_id, {key}, {columns})"
                f" SELECT business_id, gen_random_uuid(), {values} FROM businesses, generate_series(1, 30) n",
            )
        for statement in (*MORE, "ANALYZE"):
            asked(url, statement)
        yield url
    finally:
        asked(database_url, f"DROP DATABASE {name} WITH (FORCE)")


def large_tables(url: str) -> set[str]:
    """The tenants' tables, and the people's, in which a scan of the whole would be noticed."""
    names = asked(
        url,
        "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND reltuples >= 500"
        " AND (attname = 'business_id' OR relname = 'users')",
    )
    return {name for (name,) in names}


def ids_of(url: str, business_id: str) -> dict[str, str]:
    """An id of everything that a path may name."""
    found = {"business_id": business_id, "template_id": "reply.1"}
    things = {
        "agent_id": "agents", "product_id": "products", "service_id": "services", "order_id": "orders",
        "stage_id": "stages", "key_id": "api_keys",
    }  # fmt: skip
    newest = f"FROM messages WHERE business_id = '{business_id}' ORDER BY sequence DESC LIMIT 1"
    for key, table in things.items():
        [(found[key],)] = asked(url, f"SELECT {key} FROM {table} WHERE business_id = '{business_id}' LIMIT 1")
    [(found["message_id"], found["turn_id"], found["conversation_id"])] = asked(
        url, f"SELECT message_id, turn_id, conversation_id {newest}"
    )
    [(found["user_id"],)] = asked(
        url, f"SELECT user_id FROM conversations WHERE conversation_id = '{found['conversation_id']}'"
    )
    return found
