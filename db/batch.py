"""Statements of one transaction whose results nobody needs, sent in one round trip."""

from __future__ import annotations

from typing import Self

from db import Connection, Parameters


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
