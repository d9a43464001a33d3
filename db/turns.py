"""Turns and their steps: the ledger of what was asked, answered and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, fetch_all, fetch_one, json_value
from db.cipher import Cipher
from db.messages import Message, ciphertexts
from db.paging import Page, clause
from db.turn_leases import Claim

COLUMNS = (
    "turn_id, business_id, conversation_id, number, state, error_code, stage_id, stage_name, agent_id, confidence, "
    "model, degraded, prompt_tokens, completion_tokens, cost_usd, timings_ms, created_at, finished_at"
)
STEP_COLUMNS = (
    "kind, outcome, stage_name, template_id, template_version, model, attempts, prompt_tokens, completion_tokens, "
    "cost_usd, latency_ms"
)
_STEP_NAMES = STEP_COLUMNS.split(", ")
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


@dataclass(frozen=True)
class Ending:
    """How a turn leaves its conversation: the reply, and the state after it. Without a reply nothing changes."""

    reply: Message
    stage_id: str | None
    agent_id: str | None
    is_agent_chosen: bool
    status: str
    data: Mapping[str, Any]
    missing_fields: Sequence[str]


def end(
    conn: Connection,
    mine: Claim,
    cipher: Cipher,
    outcome: Mapping[str, Any],
    steps: Sequence[Step],
    first: int,
    *,
    status: int | None = None,
    bodies: Mapping[str, str] | None = None,
    ending: Ending | None = None,
) -> str:
    """End a turn: its outcome columns, its steps from position `first` on, the answer to each of its messages
    (message_id → body) and what becomes of the conversation. `ended`, or as the function end_turn tells it."""
    answers = {key: cipher.encrypt("message_requests", "answer", key, body) for key, body in (bodies or {}).items()}
    row = fetch_one(
        conn,
        "SELECT end_turn(%(business_id)s, %(turn_id)s, %(conversation_id)s, %(epoch)s, %(outcome)s, %(first)s,"
        " %(steps)s, %(contents)s, %(answer_status)s::smallint, %(message_ids)s::uuid[], %(answers)s::bytea[],"
        " %(reply_id)s, %(reply_content)s, %(stage_id)s, %(agent_id)s, %(is_agent_chosen)s, %(status)s, %(data)s,"
        " %(missing_fields)s)",
        {
            **_kept(mine, cipher, steps, first),
            "conversation_id": mine.conversation_id,
            "outcome": json_value(dict(outcome)),
            "answer_status": status,
            "message_ids": list(answers),
            "answers": list(answers.values()),
            **_left(cipher, ending),
        },
    )
    if row is None:
        raise NotFound
    return str(row[0])


def checkpoint(conn: Connection, mine: Claim, cipher: Cipher, steps: Sequence[Step], first: int) -> str:
    """Keep finished steps before the turn goes on: `kept`, or as the function keep_steps_of_turn tells it. Losing them
    in a crash of the database costs a repeated step, so the commit does not wait for the disk."""
    row = fetch_one(
        conn,
        "SET LOCAL synchronous_commit = off;"
        " SELECT keep_steps_of_turn(%(business_id)s, %(turn_id)s, %(epoch)s, %(first)s, %(steps)s, %(contents)s)",
        _kept(mine, cipher, steps, first),
    )
    return str(row[0]) if row else "fenced"


def _kept(mine: Claim, cipher: Cipher, steps: Sequence[Step], first: int) -> dict[str, Any]:
    """The parameters that name a turn and carry its steps: plain columns as JSON, ciphertexts beside it."""
    contents = [
        cipher.encrypt("turn_steps", "content", f"{mine.turn_id}:{position}", _secret(step), may_be_long=True)
        for position, step in enumerate(steps, first)
    ]
    plain = [{name: known[name] for name in _STEP_NAMES} for known in map(vars, steps)]
    return {**mine.named, "first": first, "steps": json_value(plain), "contents": contents}


def _secret(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in _SECRET}


def _left(cipher: Cipher, ending: Ending | None) -> dict[str, Any]:
    """The parameters of a reply and of the conversation's new state; all null without a reply."""
    names = ("reply_id", "reply_content", "stage_id", "agent_id", "is_agent_chosen", "status", "data", "missing_fields")
    if ending is None:
        return dict.fromkeys(names)
    conversation_id = ending.reply.conversation_id
    return {
        "reply_id": ending.reply.message_id,
        "reply_content": ciphertexts(cipher, ending.reply)[0],
        "stage_id": ending.stage_id,
        "agent_id": ending.agent_id,
        "is_agent_chosen": ending.is_agent_chosen,
        "status": ending.status,
        "data": cipher.encrypt("conversations", "data", conversation_id, dict(ending.data)),
        "missing_fields": json_value(list(ending.missing_fields)),
    }


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
