"""Agents: the personas and teams of a business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, fetch_all

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
