"""Stand-ins for a connection that save round trips: many statements in one, or one without a frame."""

from __future__ import annotations

from typing import Any, Self

from db import Connection, Database, Parameters


class Batch:
    """Stands in for the connection in query functions that only write; nothing happens before `send`. Each statement
    counts as one touched row, so what must be noticed when it is missing is locked before."""

    rowcount = 1

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._statements: list[bytes] = []

    def cursor(self) -> Self:
        """As a connection does."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """As a cursor does."""

    def execute(self, sql: str, parameters: Parameters | None = None) -> None:
        """Keep a statement for later."""
        with self._conn.cursor() as cursor:
            self._statements.append(cursor.mogrify(sql, parameters))

    def send(self) -> None:
        """Run them in the order in which they came."""
        if not self._statements:
            return
        with self._conn.cursor() as cursor:
            cursor.execute(b";".join(self._statements))


class Single:
    """Stands in for the connection where a statement is all of its transaction: each is one round trip."""

    def __init__(self, database: Database, business_id: str | None) -> None:
        self._database, self._business_id = database, business_id
        self._rows: list[tuple[Any, ...]] = []

    def cursor(self) -> Self:
        """As a connection does."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """As a cursor does."""

    def execute(self, sql: str, parameters: Parameters | None = None) -> None:
        """Run it, commit it, and keep its rows."""
        self._rows = self._database.once(self._business_id, sql, parameters)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row, or None."""
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows."""
        return self._rows
