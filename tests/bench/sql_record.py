"""What an app says to its database: every round trip, by whom, and who is inside a transaction."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from db import overdue

# Watches the turns of all workers about once a second: part of no turn.
BACKGROUND = "keeper"
_SETTINGS = re.compile(r"SELECT set_config\(.*?true\)\s*(?=;|$)", re.DOTALL)


@dataclass
class Record:
    """Since the last `clear`; `connections` since the beginning."""

    trips: list[str] = field(default_factory=list)
    transactions: int = 0
    connections: int = 0
    inside: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Forget what was said."""
        self.trips.clear()
        self.transactions = 0

    @property
    def statements(self) -> list[str]:
        """What was asked, without what only opens, shapes and ends transactions."""
        parts = (part.strip() for trip in self.trips for part in _SETTINGS.sub("", trip).split(";"))
        return [part for part in parts if part and not re.match(r"(?i)(begin|commit|rollback|set local)\b", part)]


@contextmanager
def recording() -> Iterator[Record]:
    """Of all connections that are opened in the block."""
    record = Record()
    real = psycopg2.connect

    def connect(*arguments: Any, **options: Any) -> Any:
        record.connections += 1
        return real(*arguments, **options | {"cursor_factory": cursors})

    class cursors(overdue.Cursor):  # noqa: N801 — made anew for each record
        def execute(self, query: Any, parameters: Any = None) -> None:
            if threading.current_thread().name == BACKGROUND:
                return super().execute(query, parameters)
            return _heard(record, self, query, lambda: super(cursors, self).execute(query, parameters))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg2, "connect", connect)
        yield record


def _heard(record: Record, cursor: Any, query: Any, run: Any) -> None:
    text = query if isinstance(query, str) else bytes(query).decode()
    me = threading.get_ident()
    with record.lock:
        record.trips.append(text)
        record.transactions += cursor.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        record.inside.add(me)
    try:
        run()
    finally:
        with record.lock:
            if cursor.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                record.inside.discard(me)
