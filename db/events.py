"""Analytics events: facts sent by frontends, each kept once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, execute, fetch_all, json_value
from db.paging import Page, clause, conditions

COLUMNS = "event_id, business_id, event_type, event_timestamp, user_id, conversation_id, event_data, received_at"
_GIVEN = ("event_id", "event_type", "user_id", "conversation_id", "event_data")


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


def insertion(business_id: str, events: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The statement that stores a business's events, with its parameters; one whose event_id is known already is left
    as it was. It must run in a transaction of that business, and breaks a reference when there is no such business."""
    rows = [
        {name: event.get(name) for name in _GIVEN} | {"event_timestamp": event["event_timestamp"].isoformat()}
        for event in events
    ]
    return _INSERT, {"business_id": business_id, "events": json_value(rows)}


def insert_many(conn: Connection, business_id: str, events: Sequence[Mapping[str, Any]]) -> None:
    """Store events of one business after another in one transaction; raises Conflict when there is no such business."""
    execute(conn, "SELECT set_config('icmp.business_id', %s, true)", [business_id])
    execute(conn, *insertion(business_id, events))


# One parameter for all rows: hundreds of them would each be quoted by the driver and parsed by the server.
_INSERT = """
    INSERT INTO events (event_id, business_id, event_type, event_timestamp, user_id, conversation_id, event_data)
    SELECT event_id, %(business_id)s, event_type, event_timestamp, user_id, conversation_id, coalesce(event_data, '{}')
    FROM jsonb_to_recordset(%(events)s::jsonb) AS given (
        event_id uuid, event_type text, event_timestamp timestamptz, user_id uuid, conversation_id uuid,
        event_data jsonb)
    ON CONFLICT DO NOTHING
"""
FILTERS = {
    "event_type": "event_type = %(event_type)s",
    "user_id": "user_id = %(user_id)s",
    "since": "event_timestamp >= %(since)s",
    "until": "event_timestamp < %(until)s",
}


def list_page(conn: Connection, business_id: str, filters: Mapping[str, Any], page: Page) -> list[Event]:
    """A page of the business's events, newest first; `filters` names keys of FILTERS."""
    end, values = clause(page, "event_timestamp", "event_id")
    where = conditions(FILTERS, filters)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM events WHERE business_id = %(business_id)s{where}{end}",
        values | dict(filters) | {"business_id": business_id},
    )
    return [Event(*row) for row in rows]
