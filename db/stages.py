"""Stages: the situations of a business's conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, execute, fetch_all, fetch_one, json_value
from db.paging import Page, clause

COLUMNS = (
    "stage_id, business_id, agent_id, stage_name, stage_type, stage_description, stage_selection, data_extraction, "
    "data_retrieval, response_generation, stage_selection_example_conversations, created_at, updated_at"
)
_JSON = {"stage_selection", "data_extraction", "data_retrieval", "response_generation"}
# The secrets of a look-up are written with the rest, but no row that is shown has them.
_GIVEN = (*(name for name in COLUMNS.split(", ") if name not in {"created_at", "updated_at"}), "secret_headers")


@dataclass(frozen=True)
class Stage:
    """When it applies, what must be known, what is looked up, how to answer."""

    stage_id: str
    business_id: str
    agent_id: str | None
    stage_name: str
    stage_type: str
    stage_description: str
    stage_selection: dict[str, Any]
    data_extraction: dict[str, Any]
    data_retrieval: dict[str, Any]
    response_generation: dict[str, Any]
    stage_selection_example_conversations: str
    created_at: datetime
    updated_at: datetime


def insert(conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
    """A new stage from all its columns and the encrypted `secret_headers`; raises Conflict when the name is taken."""
    values = _values(fields) | {"business_id": business_id}
    names = ", ".join(_GIVEN)
    places = ", ".join(f"%({name})s" for name in _GIVEN)
    execute(conn, f"INSERT INTO stages ({names}) VALUES ({places})", values)


def get(conn: Connection, business_id: str, stage_id: str) -> Stage:
    """The stage; raises NotFound."""
    row = fetch_one(
        conn,
        f"SELECT {COLUMNS} FROM stages WHERE business_id = %s AND stage_id = %s",
        [business_id, stage_id],
    )
    if row is None:
        raise NotFound
    return Stage(*row)


def list_page(conn: Connection, business_id: str, page: Page) -> list[Stage]:
    """A page of the business's stages, newest first."""
    end, values = clause(page, "created_at", "stage_id")
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM stages WHERE business_id = %(business_id)s{end}",
        values | {"business_id": business_id},
    )
    return [Stage(*row) for row in rows]


def list_every(conn: Connection, business_id: str) -> list[Stage]:
    """All stages of a business, oldest first: what a turn chooses from."""
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM stages WHERE business_id = %s ORDER BY created_at, stage_id",
        [business_id],
    )
    return [Stage(*row) for row in rows]


def update(conn: Connection, business_id: str, stage_id: str, fields: Mapping[str, Any]) -> None:
    """Replace the named columns; raises NotFound and Conflict."""
    columns = "".join(f"{name} = %({name})s, " for name in fields)
    changed = execute(
        conn,
        f"UPDATE stages SET {columns}updated_at = clock_timestamp()"
        " WHERE business_id = %(business_id)s AND stage_id = %(stage_id)s",
        _values(fields) | {"business_id": business_id, "stage_id": stage_id},
    )
    if not changed:
        raise NotFound


def delete(conn: Connection, business_id: str, stage_id: str) -> None:
    """Conversations in this stage go on without one; raises NotFound."""
    if not execute(conn, "DELETE FROM stages WHERE business_id = %s AND stage_id = %s", [business_id, stage_id]):
        raise NotFound


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json_value(value) if name in _JSON else value for name, value in fields.items()}
