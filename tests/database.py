"""Questions to a database past the app."""

from __future__ import annotations

from typing import Any

import psycopg2


def asked(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement, none for one without any, in a connection of its own that commits at once."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
