"""Remembering: the way to a connection, and the few verbs every query uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from db import overdue, pool
from db.errors import Conflict, DatabaseUnavailable, KeysUnavailable, NotFound, raise_ours, translated
from json_text import encoded

__all__ = [
    "Conflict",
    "Connection",
    "Database",
    "DatabaseUnavailable",
    "KeysUnavailable",
    "NotFound",
    "allow_seconds",
    "execute",
    "fetch_all",
    "fetch_one",
    "json_value",
    "translated",
]

Connection = Any  # psycopg2's connection class has no useful types of its own
Parameters = Mapping[str, Any] | Sequence[Any]

_GRACE_SECONDS = 5.0  # from the server's own limit of a statement to ours, and for a commit
_SET = """
    SELECT set_config('role', 'icmp_app', true), set_config('icmp.business_id', %s, true),
           set_config('statement_timeout', '10000', true), set_config('lock_timeout', '5000', true),
           set_config('idle_in_transaction_session_timeout', '15000', true), set_config('TimeZone', 'UTC', true)
"""


class Database:
    """One PostgreSQL database, reached as the role `icmp_app`. Safe to share between threads and over fork."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 8,
        checkout_seconds: float = 5.0,
        answer_seconds: float = 10.0 + _GRACE_SECONDS,
        observer: pool.Observer | None = None,
    ) -> None:
        self._url = url
        self._checkout_seconds = checkout_seconds
        self._answer_seconds = answer_seconds
        self._pool = pool.Pool(self._connect, pool_size, observer)

    @contextmanager
    def transaction(self, business_id: str | None, *, of_one_moment: bool = False) -> Iterator[Connection]:
        """A transaction that sees the rows of one business; None sees no tenant's rows. Commits at the end, rolls
        back on any exception. Role and tenant end with the transaction, so pooling cannot carry them over. With
        `of_one_moment` all its statements see what was stored when it began; it is for reading.
        Raises Conflict and DatabaseUnavailable."""
        with self._borrowed() as connection:
            _begin(connection, business_id, "BEGIN ISOLATION LEVEL REPEATABLE READ" if of_one_moment else "BEGIN")
            yield connection
            _commit(connection)

    def once(self, business_id: str | None, sql: str, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:
        """One statement in a transaction of its own, in one round trip to the server; its rows, none for a statement
        without any. Sees what `transaction` would see. Raises Conflict and DatabaseUnavailable."""
        with self._borrowed() as connection, connection.cursor() as cursor:
            # Sent as one string, statements are one transaction, and the settings are local to it.
            cursor.execute(cursor.mogrify(_SET, [business_id or ""]) + b";" + cursor.mogrify(sql, parameters))
            return cursor.fetchall() if cursor.description else []

    def _borrowed(self) -> _Borrowed:
        return _Borrowed(self._pool, self._checkout_seconds, self._answer_seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _connect(self) -> Connection:
        connection = psycopg2.connect(
            self._url,
            connect_timeout=5,
            application_name="icmp",
            keepalives_idle=10,
            tcp_user_timeout=10_000,
            connection_factory=overdue.Connection,
            cursor_factory=overdue.Cursor,
        )
        # The driver's own BEGIN would cost a round trip: ours travels with the settings.
        connection.autocommit = True
        overdue.watch(connection)
        return connection


class _Borrowed:
    """A connection that goes back outside any transaction, or not at all; driver errors leave as ours. Written out,
    for every statement of a turn passes here, and a generator costs three times as much."""

    def __init__(self, connections: pool.Pool, checkout_seconds: float, answer_seconds: float) -> None:
        self._pool, self._checkout_seconds, self._answer_seconds = connections, checkout_seconds, answer_seconds

    def __enter__(self) -> Connection:
        try:
            self._connection = self._pool.checkout(self._checkout_seconds)
        except pool.PoolExhausted as error:
            raise DatabaseUnavailable("no free connection") from error
        except psycopg2.Error as error:
            raise_ours(error)
            raise
        self._connection.patience_seconds = self._answer_seconds
        return self._connection

    def __exit__(self, _kind: object, fault: BaseException | None, _trace: object) -> None:
        is_broken = True
        try:
            is_broken = fault is not None and not _rolled_back(self._connection)
        finally:
            self._pool.checkin(self._connection, broken=is_broken)
        raise_ours(fault)


def _begin(connection: Connection, business_id: str | None, begin: str) -> None:
    try:
        execute(connection, f"{begin};{_SET}", [business_id or ""])
    except psycopg2.ProgrammingError as error:
        # The login may not become icmp_app; later on the same error would be a breach of row-level security.
        raise DatabaseUnavailable("the login is no member of icmp_app") from error


def _commit(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("COMMIT")
        if cursor.statusmessage != "COMMIT":  # a fault that somebody caught had aborted the transaction before
            raise DatabaseUnavailable("the transaction was rolled back")


def _rolled_back(connection: Connection) -> bool:
    try:
        if connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            execute(connection, "ROLLBACK")
    except psycopg2.Error:
        return False
    return not connection.closed


def allow_seconds(conn: Connection, seconds: float) -> None:
    """Let each statement of this transaction take so long, and no longer."""
    conn.patience_seconds = max(conn.patience_seconds, seconds + _GRACE_SECONDS)
    execute(conn, "SELECT set_config('statement_timeout', %s, true)", [str(round(seconds * 1000))])


def execute(conn: Connection, sql: str, parameters: Parameters | None = None) -> int:
    """Run one statement; the number of rows it touched."""
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        return int(cursor.rowcount)


def fetch_one(conn: Connection, sql: str, parameters: Parameters | None = None) -> tuple[Any, ...] | None:
    """The first row, or None."""
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row


def fetch_all(conn: Connection, sql: str, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:
    """All rows."""
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def json_value(value: Any) -> Any:
    """A value as a jsonb parameter."""
    return psycopg2.extras.Json(value, dumps=_dumps)


def _dumps(value: Any) -> str:
    return encoded(value).decode()
