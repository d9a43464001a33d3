"""Analytics events: facts sent by frontends, each kept once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2.extras

from db import Connection, execute, fetch_all, json_value
from db.paging import Page, clause

COLUMNS = "event_id, business_id, event_type, event_timestamp, user_id, conversation_id, event_data, received_at"
_GIVEN = COLUMNS.split(", ")[:-1]


@dataclass(frozen=True)
class Event:
    """One fact; `event_timestamp` is the sender's clock, `received_at` ours."""

    event_id: str
    business_id: str
    event_type: str
    event_timestamp: datetime
    user_id: str | None
    conversation_id: str | None
    event_data: dict[str, Any]
    received_at: datetime


def insert_many(conn: Connection, business_id: str, events: Sequence[Mapping[str, Any]]) -> None:
    """Store a business's events; one whose event_id is known already is left as it was."""
    rows = [
        tuple(json_value(event.get(name) or {}) if name == "event_data" else event.get(name) for name in _GIVEN)
        for event in events
    ]
    # This runs in the transaction of the business; a row of another one would be refused by row-level security.
    execute(conn, "SELECT set_config('icmp.business_id', %s, true)", [business_id])
    with conn.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor,
            f"INSERT INTO events ({', '.join(_GIVEN)}) VALUES %s ON CONFLICT DO NOTHING",
            rows,
            page_size=500,
        )


FILTERS = {
    "event_type": "event_type = %(event_type)s",
    "user_id": "user_id = %(user_id)s",
    "since": "event_timestamp >= %(since)s",
    "until": "event_timestamp < %(until)s",
}


def list_page(conn: Connection, business_id: str, filters: Mapping[str, Any], page: Page) -> list[Event]:
    """A page of the business's events, newest first; `filters` names keys of FILTERS."""
    end, values = clause(page, "event_timestamp", "event_id")
    where = "".join(f" AND {FILTERS[name]}" for name in filters)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM events WHERE business_id = %(business_id)s{where}{end}",
        values | dict(filters) | {"business_id": business_id},
    )
    return [Event(*row) for row in rows]
