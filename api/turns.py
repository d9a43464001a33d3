"""One turn from accepted to committed: load, think, save. No connection is held while the model thinks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import db
from api.contract import shown
from api.errors import ConversationCompleted, NoStages, row_of
from api.lookups import Looker
from api.parts import Parts
from db import agents, businesses, conversations, messages, stages, templates, turns, users
from db.cipher import Cipher
from db.conversations import Conversation
from db.messages import Message
from db.paging import Page
from nlp import fields, pipeline
from nlp.turn import KINDS, Turn, Utterance, window

HISTORY_MESSAGES = 100


@dataclass(frozen=True)
class Accepted:
    """A message that is stored and will not be lost; `turn` is None when people answer the conversation."""

    conversation: Conversation
    message: Message
    turn: Turn | None
    started: float


def accept(conn: db.Connection, parts: Parts, business_id: str, body: Mapping[str, Any]) -> Accepted:
    """Store the message and load what its turn needs. Raises NoStages, NotFound and ConversationCompleted."""
    started = time.monotonic()
    key, user_id = parts.key_store.cipher(conn, business_id), str(uuid.UUID(body["user_id"]))
    user = users.find_contact(conn, business_id, key, user_id)
    if user is None:
        users.insert(conn, user_id)
        users.meet(conn, business_id, user_id, "customer")
    conversation = _conversation(conn, parts, business_id, key, {**body, "user_id": user_id})
    if conversation.status == "paused":
        message = _store(conn, key, conversation, None, "user", body["message"], body.get("metadata"))
        conversations.update(conn, business_id, key, conversation.conversation_id, {})
        return Accepted(conversation, message, None, started)
    known_stages = stages.list_every(conn, business_id)
    if not known_stages:
        raise NoStages("business_id: this business has no stages yet")
    history = _history(conn, key, conversation, parts.settings.history_tokens)
    turn_id = str(uuid.uuid4())
    turns.insert(conn, business_id, turn_id, conversation.conversation_id)
    message = _store(conn, key, conversation, turn_id, "user", body["message"], body.get("metadata"))
    stage = next((each for each in known_stages if each.stage_id == conversation.stage_id), None)
    turn = opened(
        conn,
        parts,
        business_id,
        body,
        stages=tuple(known_stages),
        user={"user_id": user_id, **(user or {})},
        history=history,
        stage=stage,
        agent_id=conversation.agent_id,
        data=conversation.data,
        deadline=started + parts.settings.turn_timeout_s,
    )
    return Accepted(conversation, message, turn, started)


def opened(conn: db.Connection, parts: Parts, business_id: str, body: Mapping[str, Any], **known: Any) -> Turn:
    """The first moment of a turn: the message, the business's own material, and what the caller knows besides."""
    return Turn(
        business=businesses.get(conn, business_id, with_lists=False),
        agents={agent.agent_id: agent for agent in agents.list_every(conn, business_id)},
        templates=templates.latest(conn, business_id),
        message=body["message"],
        metadata=body.get("metadata", {}),
        now=datetime.now(UTC).isoformat(timespec="seconds"),
        model=parts.settings.openai_model,
        **known,
    )


def _history(conn: db.Connection, key: Cipher, conversation: Conversation, tokens: int) -> tuple[Utterance, ...]:
    """What was said before, oldest first."""
    page = Page(HISTORY_MESSAGES)
    newest = messages.list_page(conn, conversation.business_id, key, conversation.conversation_id, page)
    return window([Utterance(each.sender_type, each.message_content) for each in reversed(newest)], tokens)


def answer(parts: Parts, accepted: Accepted) -> tuple[dict[str, Any], int]:
    """Think and save; the body and status of the reply. Whatever happens the turn is closed with its ledger.
    Raises ModelUnavailable."""
    if accepted.turn is None:
        return _body(accepted, None, None), 202
    turn = accepted.turn
    look_up = Looker(parts, turn.business.business_id, turn.user["user_id"], accepted.message.turn_id or "")
    try:
        for thought in pipeline.run(turn, parts.model.ask, parts.threads, look_up):
            turn = thought
        return _save(parts, accepted, turn)
    except Exception as error:
        _save_failure(parts, accepted, turn, error)
        raise


def _conversation(
    conn: db.Connection, parts: Parts, business_id: str, key: Cipher, body: Mapping[str, Any]
) -> Conversation:
    if "conversation_id" in body:
        named = conversations.get(conn, business_id, key, body["conversation_id"])
        if named.user_id != body["user_id"]:
            raise db.NotFound
        if named.status == "completed":
            raise ConversationCompleted(f"conversation_id: {named.conversation_id} takes no more messages")
        return named
    found = _open(conn, parts, business_id, key, body)
    if found is None:
        conversations.lock_user(conn, business_id, body["user_id"])
        found = _open(conn, parts, business_id, key, body)
    if found is not None:
        return found
    conversation_id = str(uuid.uuid4())
    session_id = body.get("session_id") or str(uuid.uuid4())
    conversations.insert(conn, business_id, conversation_id, body["user_id"], session_id)
    return conversations.get(conn, business_id, key, conversation_id)


def _open(
    conn: db.Connection, parts: Parts, business_id: str, key: Cipher, body: Mapping[str, Any]
) -> Conversation | None:
    if "session_id" in body:
        return conversations.find_open(conn, business_id, key, body["user_id"], body["session_id"])
    minutes = parts.settings.session_timeout_minutes
    return conversations.find_recent(conn, business_id, key, body["user_id"], minutes)


def _save(parts: Parts, accepted: Accepted, turn: Turn) -> tuple[dict[str, Any], int]:
    business_id, conversation_id = turn.business.business_id, accepted.conversation.conversation_id
    with parts.database.transaction(business_id) as conn:
        key = parts.key_store.cipher(conn, business_id)
        current = conversations.lock(conn, business_id, key, conversation_id)
        if current.status != "active":
            # People took over while the model was thinking: its reply must not reach the customer any more.
            _close(conn, key, accepted, turn, {"state": "done"})
            return _body(Accepted(current, accepted.message, None, accepted.started), None, None), 202
        turn = _with_news(turn, accepted.conversation.data, current.data)
        turn_id, text = accepted.message.turn_id, turn.response or ""
        reply = _store(conn, key, accepted.conversation, turn_id, "ai", text, None)
        state = {
            "stage_id": turn.stage.stage_id if turn.stage else None,
            # An agent that staff named meanwhile stays, unless this turn chose another one.
            "agent_id": current.agent_id if turn.agent_id == accepted.conversation.agent_id else turn.agent_id,
            "status": turn.status,
            "data": dict(turn.data),
            "missing_fields": list(turn.missing_fields),
        }
        conversations.update(conn, business_id, key, conversation_id, state)
        body = _body(accepted, turn, reply)
        _close(conn, key, accepted, turn, {"state": "done", "timings_ms": body["timings_ms"]})
    return body, 200


def _with_news(turn: Turn, before: Mapping[str, Any], current: Mapping[str, Any]) -> Turn:
    """The turn's findings on top of what another turn of the conversation may have stored meanwhile."""
    found = {name: value for name, value in turn.data.items() if name not in before or before[name] != value}
    data = {**current, **found}
    return replace(turn, data=data, missing_fields=fields.missing(turn.output_schema, data) if turn.stage else ())


def _save_failure(parts: Parts, accepted: Accepted, turn: Turn, error: Exception) -> None:
    with parts.database.transaction(turn.business.business_id) as conn:
        key = parts.key_store.cipher(conn, turn.business.business_id)
        _close(conn, key, accepted, turn, {"state": "failed", "error_code": row_of(error).error_code})


def _close(conn: db.Connection, key: Cipher, accepted: Accepted, turn: Turn, values: Mapping[str, Any]) -> None:
    turn_id = accepted.message.turn_id or ""
    outcome = {
        "stage_id": turn.stage.stage_id if turn.stage else None,
        "stage_name": turn.stage.stage_name if turn.stage else None,
        "agent_id": turn.agent_id,
        "confidence": turn.confidence,
        "model": turn.answered_by or turn.model,
        "degraded": turn.degraded,
        "timings_ms": _timings(accepted, turn),
        **turn.usage,
        **values,
    }
    if turns.finish(conn, turn.business.business_id, turn_id, outcome):
        turns.insert_steps(conn, turn.business.business_id, key, turn_id, turn.steps)


def _timings(accepted: Accepted, turn: Turn | None) -> dict[str, float]:
    steps = turn.timings_ms if turn else dict.fromkeys(KINDS, 0.0)
    total = (time.monotonic() - accepted.started) * 1000
    return {name: round(value, 1) for name, value in {**steps, "total": total}.items()}


def _body(accepted: Accepted, turn: Turn | None, reply: Message | None) -> dict[str, Any]:
    """The reply as the caller sees it; without a turn the conversation as it stands."""
    conversation = accepted.conversation
    stage_id, stage_name = conversation.stage_id, conversation.stage_name
    if turn is not None and turn.stage is not None:
        stage_id, stage_name = turn.stage.stage_id, turn.stage.stage_name
    stage = {"stage_id": stage_id, "stage_name": stage_name, "confidence": turn.confidence if turn else None}
    no_usage = {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
    body: dict[str, Any] = shown(
        {
            "response": turn.response if turn else None,
            "conversation_id": conversation.conversation_id,
            "session_id": conversation.session_id,
            "message_id": accepted.message.message_id,
            "reply_id": reply.message_id if reply else None,
            "turn_id": accepted.message.turn_id,
            "status": turn.status if turn else conversation.status,
            "stage": stage if stage_id else None,
            "agent_id": turn.agent_id if turn else conversation.agent_id,
            "model": (turn.answered_by or turn.model) if turn else None,
            "data": turn.data if turn else conversation.data,
            "missing_fields": turn.missing_fields if turn else conversation.missing_fields,
            "degraded": turn.degraded if turn else False,
            "usage": turn.usage if turn else no_usage,
            "timings_ms": _timings(accepted, turn),
        }
    )
    return body


def _store(
    conn: db.Connection,
    key: Cipher,
    conversation: Conversation,
    turn_id: str | None,
    sender_type: str,
    text: str,
    metadata: Mapping[str, Any] | None,
) -> Message:
    return messages.insert(
        conn,
        key,
        Message(
            message_id=str(uuid.uuid4()),
            business_id=conversation.business_id,
            conversation_id=conversation.conversation_id,
            turn_id=turn_id,
            sender_type=sender_type,
            message_content=text,
            metadata=dict(metadata or {}),
            created_at=datetime.now(UTC),
        ),
    )
