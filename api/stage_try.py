"""Trying a stage: one message through its prompts and its look-up, with every step shown and nothing stored."""

from __future__ import annotations

import time
import uuid
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract
from api.lookups import Looker
from api.parts import parts, tenant
from db import stages, users
from nlp import pipeline
from nlp.turn import Turn, Utterance, window

routes = Blueprint("stage_try", __name__)


@routes.post("/stages/<stage_id>/try")
@auth.require_business_api_key
@contract.contract(takes="stage_try", gives="stage_try_result", other_statuses=(503, 504), limit="messages")
def post_stage_try(business_id: str, stage_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Answer a message as if the conversation were in this stage. An api_call is really made."""
    started = time.monotonic()
    user_id = str(uuid.UUID(body["user_id"])) if "user_id" in body else None
    with tenant(business_id, of_one_moment=True) as conn:
        turn = _turn(conn, business_id, stage_id, body, user_id, started)
    look_up = Looker(parts(), business_id, user_id, str(uuid.uuid4()))
    *_, turn = pipeline.run(turn, parts().model.ask, parts().threads, look_up, keep_stage=True)
    total = (time.monotonic() - started) * 1000
    return {
        "stage_id": stage_id,
        "steps": turn.steps,
        "data": turn.data,
        "missing_fields": turn.missing_fields,
        "retrieved": turn.retrieved,
        "response": turn.response,
        "degraded": turn.degraded,
        "usage": turn.usage,
        "timings_ms": {name: round(value, 1) for name, value in {**turn.timings_ms, "total": total}.items()},
    }


def _turn(
    conn: db.Connection, business_id: str, stage_id: str, body: dict[str, Any], user_id: str | None, started: float
) -> Turn:
    """The first moment of the trial; raises NotFound."""
    settings, key = parts().settings, parts().key_store.cipher(conn, business_id)
    contact = users.find_contact(conn, business_id, key, user_id) if user_id else None
    said = [Utterance(each["sender_type"], each["message_content"]) for each in body.get("history", [])]
    return (
        parts()
        .setups.get(conn, business_id)
        .turn(
            body["message"],
            body.get("metadata", {}),
            settings.openai_model,
            user={"user_id": user_id, **(contact or {})},
            history=window(said, settings.history_tokens),
            stage=stages.get(conn, business_id, stage_id),
            data=body.get("data", {}),
            deadline=started + settings.turn_timeout_s,
        )
    )
