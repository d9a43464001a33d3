"""A customer's message in, the reply out."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, request

import auth
from api import acceptance, contract, replies, streaming
from api.contract import Reply
from api.parts import cipher, parts, tenant
from db import messages

routes = Blueprint("messages", __name__)


_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": acceptance.MAX_KEY_CHARACTERS,
    "description": "Names the message: sent again with the same key it gets the same reply and is stored once.",
}


@routes.post("/messages")
@auth.require_business_api_key
@contract.contract(
    takes="message_request",
    gives="message_response",
    other_statuses=(202, 409, 422, 503, 504),
    limit="messages",
    headers={"Idempotency-Key": _KEY},
    streams=True,
)
def post_message(business_id: str, body: dict[str, Any]) -> Reply | Response:
    """Answer a customer's message; 202 without a response while people answer the conversation."""
    body = {name: value for name, value in body.items() if value is not None}
    g.user_id, g.business_id = body["user_id"], business_id
    key = acceptance.checked_key(request.headers.get("Idempotency-Key"))
    wired, slot = parts(), parts().turn_slots.taken()
    try:
        accepted = acceptance.accept(wired, business_id, body, key)
    except BaseException:
        slot.free()
        raise
    g.conversation_id, g.audit_scope = accepted.conversation_id, business_id
    headers = {"Idempotent-Replayed": "true"} if accepted.is_repeated else {}
    if streaming.is_wanted(request, body):
        status = 202 if accepted.turn_id is None else 200
        try:
            return streaming.response(
                lambda told: slot.used(lambda: replies.reply_to(wired, accepted, told)), status, headers
            )
        except RuntimeError:  # no thread could be started: the message is kept, and the next attempt is another's
            slot.free()
            raise
    reply = slot.used(lambda: replies.reply_to(wired, accepted))
    return Reply(reply.body.encode(), reply.status, headers)


@routes.get("/messages/<message_id>")
@auth.require_business_api_key
@contract.contract(gives="message")
def get_message(business_id: str, message_id: str) -> messages.Message:
    """One message."""
    with tenant(business_id) as conn:
        return messages.get(conn, business_id, cipher(conn, business_id), message_id)
