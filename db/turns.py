"""Turns and their steps: the ledger of what was asked, answered and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, execute, fetch_all, fetch_one, json_value
from db.cipher import Cipher
from db.paging import Page, clause

COLUMNS = (
    "turn_id, business_id, conversation_id, number, state, error_code, stage_id, stage_name, agent_id, confidence, "
    "model, degraded, prompt_tokens, completion_tokens, cost_usd, timings_ms, created_at, finished_at"
)
STEP_COLUMNS = (
    "kind, outcome, stage_name, template_id, template_version, model, attempts, prompt_tokens, completion_tokens, "
    "cost_usd, latency_ms"
)
_SECRET = ("prompt", "raw_outputs", "output", "verdict")


@dataclass(frozen=True)
class TurnRecord:
    """The outcome of one turn; `state` is open, done or failed."""

    turn_id: str
    business_id: str
    conversation_id: str
    number: int
    state: str
    error_code: str | None
    stage_id: str | None
    stage_name: str | None
    agent_id: str | None
    confidence: float | None
    model: str | None
    degraded: bool
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Any
    timings_ms: dict[str, float]
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Step:
    """One model call or look-up of a turn. The last four fields hold customers' words and are stored encrypted."""

    kind: str
    outcome: str
    stage_name: str | None
    template_id: str | None
    template_version: int | None
    model: str | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Any
    latency_ms: float
    prompt: Any
    raw_outputs: Any
    output: Any
    verdict: Any


def insert(conn: Connection, business_id: str, turn_id: str, conversation_id: str) -> int:
    """Open the conversation's next turn; its number, from 1. Serializes the turns of one conversation."""
    row = fetch_one(
        conn,
        "WITH next AS (UPDATE conversations SET turn_count = turn_count + 1, last_updated = clock_timestamp()"
        "  WHERE business_id = %(business_id)s AND conversation_id = %(conversation_id)s RETURNING turn_count)"
        " INSERT INTO turns (business_id, turn_id, conversation_id, number)"
        " SELECT %(business_id)s, %(turn_id)s, %(conversation_id)s, turn_count FROM next RETURNING number",
        {"business_id": business_id, "turn_id": turn_id, "conversation_id": conversation_id},
    )
    if row is None:
        raise NotFound
    return int(row[0])


def finish(conn: Connection, business_id: str, turn_id: str, values: Mapping[str, Any]) -> bool:
    """Close an open turn with its outcome columns; False when it was closed already."""
    given = dict(values) | {"timings_ms": json_value(values["timings_ms"])}
    columns = ", ".join(f"{name} = %({name})s" for name in given)
    return bool(
        execute(
            conn,
            f"UPDATE turns SET {columns}, finished_at = clock_timestamp()"
            " WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s AND state = 'open'",
            given | {"business_id": business_id, "turn_id": turn_id},
        )
    )


def insert_steps(conn: Connection, business_id: str, cipher: Cipher, turn_id: str, steps: Sequence[Step]) -> None:
    """The steps of a turn in the order they were finished, in one statement."""
    if not steps:
        return
    places, values = [], []
    for position, step in enumerate(steps):
        content = cipher.encrypt(
            "turn_steps", "content", f"{turn_id}:{position}", {name: getattr(step, name) for name in _SECRET}
        )
        places.append("(" + ", ".join(["%s"] * (len(STEP_COLUMNS.split(",")) + 4)) + ")")
        values += [business_id, turn_id, position, content]
        values += [getattr(step, name) for name in STEP_COLUMNS.split(", ")]
    execute(
        conn,
        f"INSERT INTO turn_steps (business_id, turn_id, position, content, {STEP_COLUMNS}) VALUES {', '.join(places)}",
        values,
    )


def get(conn: Connection, business_id: str, turn_id: str) -> TurnRecord:
    """The turn; raises NotFound."""
    row = fetch_one(
        conn, f"SELECT {COLUMNS} FROM turns WHERE business_id = %s AND turn_id = %s", [business_id, turn_id]
    )
    if row is None:
        raise NotFound
    return TurnRecord(*row)


def list_page(conn: Connection, business_id: str, conversation_id: str, page: Page) -> list[TurnRecord]:
    """A page of a conversation's turns, newest first."""
    end, values = clause(page, "number", "turn_id")
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM turns WHERE business_id = %(business_id)s"
        f" AND conversation_id = %(conversation_id)s{end}",
        values | {"business_id": business_id, "conversation_id": conversation_id},
    )
    return [TurnRecord(*row) for row in rows]


def list_steps(conn: Connection, business_id: str, cipher: Cipher, turn_id: str) -> list[Step]:
    """The steps of a turn, first to last."""
    rows = fetch_all(
        conn,
        f"SELECT position, content, {STEP_COLUMNS} FROM turn_steps"
        " WHERE business_id = %s AND turn_id = %s ORDER BY position",
        [business_id, turn_id],
    )
    return [Step(*row[2:], **cipher.decrypt("turn_steps", "content", f"{turn_id}:{row[0]}", row[1])) for row in rows]
