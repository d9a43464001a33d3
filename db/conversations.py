"""Conversations: one thread with one customer, and its state between turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, execute, fetch_all, fetch_one
from db.cipher import Cipher
from db.paging import Page, clause, conditions

COLUMNS = (
    "conversation_id, business_id, user_id, agent_id, stage_id, stage_name, session_id, start_time, last_updated, "
    "status, data, missing_fields"
)
_SELECT = COLUMNS.replace(
    "stage_name",
    "(SELECT s.stage_name FROM stages s"
    " WHERE s.business_id = conversations.business_id AND s.stage_id = conversations.stage_id)",
)


@dataclass(frozen=True)
class Conversation:
    """`status` is active, paused or completed; `data` is what was collected so far."""

    conversation_id: str
    business_id: str
    user_id: str
    agent_id: str | None
    stage_id: str | None
    stage_name: str | None
    session_id: str
    start_time: datetime
    last_updated: datetime
    status: str
    data: dict[str, Any]
    missing_fields: list[str]


def get(conn: Connection, business_id: str, cipher: Cipher, conversation_id: str) -> Conversation:
    """The conversation; raises NotFound."""
    found = _find(conn, business_id, cipher, "conversation_id = %(id)s", {"id": conversation_id})
    if found is None:
        raise NotFound
    return found


def lock(conn: Connection, business_id: str, cipher: Cipher, conversation_id: str) -> Conversation:
    """The conversation as it is now, which nobody else changes until the transaction ends; raises NotFound."""
    found = _find(conn, business_id, cipher, "conversation_id = %(id)s FOR UPDATE", {"id": conversation_id})
    if found is None:
        raise NotFound
    return found


def update(conn: Connection, business_id: str, conversation_id: str, values: Mapping[str, Any]) -> None:
    """Replace what people may (`status`, `agent_id`), and be the newest; raises NotFound and Conflict."""
    columns = "".join(f"{name} = {_SETTERS[name]}, " for name in values)
    changed = execute(
        conn,
        f"UPDATE conversations SET {columns}last_updated = clock_timestamp()"
        " WHERE business_id = %(business_id)s AND conversation_id = %(conversation_id)s",
        {**values, "business_id": business_id, "conversation_id": conversation_id},
    )
    if not changed:
        raise NotFound


_SETTERS = {
    "status": "%(status)s",
    # An agent deleted meanwhile becomes null, as it does for conversations that have it.
    "agent_id": "(SELECT agent_id FROM agents WHERE business_id = %(business_id)s AND agent_id = %(agent_id)s)",
}
FILTERS = {
    "user_id": "user_id = %(user_id)s",
    "session_id": "session_id = %(session_id)s",
    "status": "status = %(status)s",
    "stage_id": "stage_id = %(stage_id)s",
    "agent_id": "agent_id = %(agent_id)s",
    "since": "start_time >= %(since)s",
    "until": "start_time < %(until)s",
}


def list_page(
    conn: Connection, business_id: str, cipher: Cipher, filters: Mapping[str, Any], page: Page
) -> list[Conversation]:
    """A page of the business's conversations, newest start first; `filters` names keys of FILTERS."""
    end, values = clause(page, "start_time", "conversation_id")
    where = conditions(FILTERS, filters)
    rows = fetch_all(
        conn,
        f"SELECT {_SELECT} FROM conversations WHERE business_id = %(business_id)s{where}{end}",
        values | dict(filters) | {"business_id": business_id},
    )
    return [read(cipher, row) for row in rows]


def _find(
    conn: Connection, business_id: str, cipher: Cipher, where: str, values: dict[str, Any]
) -> Conversation | None:
    row = fetch_one(
        conn,
        f"SELECT {_SELECT} FROM conversations WHERE business_id = %(business_id)s AND {where}",
        values | {"business_id": business_id},
    )
    return None if row is None else read(cipher, row)


def read(cipher: Cipher, row: tuple[Any, ...]) -> Conversation:
    """A row of COLUMNS."""
    record = dict(zip(COLUMNS.split(", "), row, strict=True))
    stored = record["data"]
    data = {} if stored is None else cipher.decrypt("conversations", "data", record["conversation_id"], stored)
    return Conversation(**{**record, "data": data})
