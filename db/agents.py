"""Agents: the personas and teams of a business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, execute, fetch_all, fetch_one, json_value
from db.paging import Page, clause

COLUMNS = (
    "agent_id, business_id, agent_name, agent_description, agent_type, instructions, model_settings, is_default, "
    "created_at, updated_at"
)


@dataclass(frozen=True)
class Agent:
    """Who answers; `agent_type` is `ai` or `human`."""

    agent_id: str
    business_id: str
    agent_name: str
    agent_description: str
    agent_type: str
    instructions: str
    model_settings: dict[str, Any]
    is_default: bool
    created_at: datetime
    updated_at: datetime


def insert(conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
    """A new agent; columns not in `fields` get the table's defaults. Raises Conflict when the name is taken."""
    values = _values(fields) | {"business_id": business_id}
    _make_room(conn, business_id, fields)
    places = ", ".join(f"%({name})s" for name in values)
    execute(conn, f"INSERT INTO agents ({', '.join(values)}) VALUES ({places})", values)


def get(conn: Connection, business_id: str, agent_id: str) -> Agent:
    """The agent; raises NotFound."""
    row = fetch_one(
        conn,
        f"SELECT {COLUMNS} FROM agents WHERE business_id = %s AND agent_id = %s",
        [business_id, agent_id],
    )
    if row is None:
        raise NotFound
    return Agent(*row)


def list_page(conn: Connection, business_id: str, page: Page) -> list[Agent]:
    """A page of the business's agents, newest first."""
    end, values = clause(page, "created_at", "agent_id")
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM agents WHERE business_id = %(business_id)s{end}",
        values | {"business_id": business_id},
    )
    return [Agent(*row) for row in rows]


def list_every(conn: Connection, business_id: str) -> list[Agent]:
    """All agents of a business, oldest first: what a turn chooses from."""
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM agents WHERE business_id = %s ORDER BY created_at, agent_id",
        [business_id],
    )
    return [Agent(*row) for row in rows]


def exists(conn: Connection, business_id: str, agent_id: str) -> bool:
    """Whether the business has this agent."""
    return bool(
        fetch_all(conn, "SELECT 1 FROM agents WHERE business_id = %s AND agent_id = %s", [business_id, agent_id])
    )


def update(conn: Connection, business_id: str, agent_id: str, fields: Mapping[str, Any]) -> None:
    """Replace the named columns; a new default takes the place of the old one. Raises NotFound and Conflict."""
    _make_room(conn, business_id, fields)
    columns = "".join(f"{name} = %({name})s, " for name in fields)
    changed = execute(
        conn,
        f"UPDATE agents SET {columns}updated_at = clock_timestamp()"
        " WHERE business_id = %(business_id)s AND agent_id = %(agent_id)s",
        _values(fields) | {"business_id": business_id, "agent_id": agent_id},
    )
    if not changed:
        raise NotFound


def delete(conn: Connection, business_id: str, agent_id: str) -> None:
    """Stages and conversations go on without an agent; raises NotFound."""
    if not execute(conn, "DELETE FROM agents WHERE business_id = %s AND agent_id = %s", [business_id, agent_id]):
        raise NotFound


def _make_room(conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
    """A new default is the only one. Two at once queue up at the business's row: the later one wins."""
    if fields.get("is_default"):
        execute(conn, "SELECT 1 FROM businesses WHERE business_id = %s FOR NO KEY UPDATE", [business_id])
        execute(
            conn,
            "UPDATE agents SET is_default = false, updated_at = clock_timestamp()"
            " WHERE business_id = %s AND is_default",
            [business_id],
        )


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json_value(value) if name == "model_settings" else value for name, value in fields.items()}
