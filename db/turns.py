"""Turns and their steps: the ledger of what was asked, answered and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, Database, NotFound, execute, fetch_all, fetch_one, json_value
from db.cipher import Cipher
from db.paging import Page, clause
from db.turn_leases import Claim

COLUMNS = (
    "turn_id, business_id, conversation_id, number, state, error_code, stage_id, stage_name, agent_id, confidence, "
    "model, degraded, prompt_tokens, completion_tokens, cost_usd, timings_ms, created_at, finished_at"
)
_STEP_TYPES = {
    "kind": "text",
    "outcome": "text",
    "stage_name": "text",
    "template_id": "text",
    "template_version": "integer",
    "model": "text",
    "attempts": "integer",
    "prompt_tokens": "integer",
    "completion_tokens": "integer",
    "cost_usd": "numeric",
    "latency_ms": "double precision",
}
STEP_COLUMNS = ", ".join(_STEP_TYPES)
_JSON = {"timings_ms", "missing_fields"}
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


def finish(conn: Connection, mine: Claim, values: Mapping[str, Any]) -> bool:
    """Close a turn with its outcome columns; False when somebody else has taken it over."""
    given = {name: json_value(value) if name in _JSON else value for name, value in values.items()}
    columns = ", ".join(f"{name} = %({name})s" for name in given)
    return bool(
        execute(
            conn,
            f"UPDATE turns SET {columns}, lease_until = NULL, finished_at = clock_timestamp()"
            " WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s AND epoch = %(epoch)s AND state = 'open'",
            given | mine.named,
        )
    )


def insert_steps(conn: Connection, mine: Claim, cipher: Cipher, steps: Sequence[Step], first: int = 0) -> None:
    """The steps of a turn in the order they were finished, from position `first` on, in one statement."""
    if steps:
        rows, values = _rows(mine, cipher, steps, first)
        execute(
            conn, f"INSERT INTO turn_steps (business_id, turn_id, position, content, {STEP_COLUMNS}) {rows}", values
        )


def checkpoint(database: Database, mine: Claim, cipher: Cipher, steps: Sequence[Step], first: int) -> bool:
    """Keep finished steps before the turn goes on, in one round trip; False when somebody else has taken it over.
    Losing them in a crash of the database costs a repeated step, so the commit does not wait for the disk."""
    rows, values = _rows(mine, cipher, steps, first)
    return bool(
        database.once(
            mine.business_id,
            "SET LOCAL synchronous_commit = off;"
            " WITH mine AS (SELECT 1 FROM turns WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s"
            "  AND epoch = %(epoch)s AND state = 'open' FOR UPDATE)"
            f" INSERT INTO turn_steps (business_id, turn_id, position, content, {STEP_COLUMNS})"
            f" SELECT given.* FROM mine, ({rows}) given RETURNING position",
            values | mine.named,
        )
    )


def _rows(mine: Claim, cipher: Cipher, steps: Sequence[Step], first: int) -> tuple[str, dict[str, Any]]:
    """VALUES of these steps, each value cast to its column's type, and their parameters."""
    values: dict[str, Any] = {"business_id": mine.business_id, "turn_id": mine.turn_id}
    rows = []
    for position, step in enumerate(steps, first):
        secret = {name: getattr(step, name) for name in _SECRET}
        values[f"position{position}"] = position
        values[f"content{position}"] = cipher.encrypt("turn_steps", "content", f"{mine.turn_id}:{position}", secret)
        values |= {f"{name}{position}": getattr(step, name) for name in _STEP_TYPES}
        places = "".join(f", %({name}{position})s::{kind}" for name, kind in _STEP_TYPES.items())
        rows.append(
            f"(%(business_id)s::uuid, %(turn_id)s::uuid, %(position{position})s::integer,"
            f" %(content{position})s::bytea{places})"
        )
    return f"VALUES {', '.join(rows)}", values


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
    end, values = clause(page, "number")
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
