"""The answer to a customer's message, as the caller sees it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from api.contract import body_text
from db.conversations import Conversation
from db.messages import Message
from db.turn_leases import Claim
from nlp.turn import KINDS, Turn


def reply(claim: Claim, text: str) -> Message:
    """The reply of a turn, as it is stored."""
    return Message(
        message_id=str(uuid.uuid4()),
        business_id=claim.business_id,
        conversation_id=claim.conversation_id,
        turn_id=claim.turn_id,
        sender_type="ai",
        message_content=text,
        metadata={},
        created_at=datetime.now(UTC),
    )


def with_reply(
    conversation: Conversation, message: Message, turn: Turn, said: Message, timings_ms: Mapping[str, float]
) -> str:
    """The body of a 200: what the turn came to."""
    stage = turn.stage_or_best
    return body_text(
        {
            "response": said.message_content,
            **_names(conversation, message, said.message_id),
            "status": turn.status,
            "stage": {"stage_id": stage.stage_id, "stage_name": stage.stage_name, "confidence": turn.confidence}
            if turn.stage
            else _stage(conversation),
            "agent_id": turn.agent_id,
            "model": turn.answered_by or turn.model,
            "data": turn.data,
            "missing_fields": turn.missing_fields,
            "degraded": turn.degraded,
            "usage": turn.usage,
            "timings_ms": timings_ms,
        }
    )


def without_reply(
    conversation: Conversation, message: Message, timings_ms: Mapping[str, float], turn: Turn | None = None
) -> str:
    """The body of a 202, while people answer: the conversation as it stands, and what was paid for a turn that they
    broke off."""
    return body_text(
        {
            "response": None,
            **_names(conversation, message, None),
            "status": conversation.status,
            "stage": _stage(conversation),
            "agent_id": conversation.agent_id,
            "model": turn.answered_by if turn else None,
            "data": conversation.data,
            "missing_fields": conversation.missing_fields,
            "degraded": False,
            "usage": turn.usage if turn else {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0},
            "timings_ms": timings_ms,
        }
    )


def timings_ms(started: float, turn: Turn | None = None) -> dict[str, float]:
    """Milliseconds of each kind of step, and of everything since `started` on the monotonic clock."""
    steps = turn.timings_ms if turn else dict.fromkeys(KINDS, 0.0)
    total = (time.monotonic() - started) * 1000
    return {name: round(value, 1) for name, value in {**steps, "total": total}.items()}


def _names(conversation: Conversation, message: Message, reply_id: str | None) -> dict[str, Any]:
    return {
        "conversation_id": conversation.conversation_id,
        "session_id": conversation.session_id,
        "message_id": message.message_id,
        "reply_id": reply_id,
        "turn_id": message.turn_id,
    }


def _stage(conversation: Conversation) -> dict[str, Any] | None:
    if conversation.stage_id is None:
        return None
    return {"stage_id": conversation.stage_id, "stage_name": conversation.stage_name, "confidence": None}
