"""A customer's message in, the reply out."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g, request

import auth
from api import acceptance, contract, replies
from api.contract import Reply
from api.parts import cipher, parts, tenant
from db import messages

routes = Blueprint("messages", __name__)


@routes.post("/messages")
@auth.require_business_api_key
@contract.contract(takes="message_request", gives="message_response", other_statuses=(202, 503, 504), limit="messages")
def post_message(business_id: str, body: dict[str, Any]) -> Reply:
    """Answer a customer's message; 202 without a response while people answer the conversation."""
    g.user_id = body["user_id"]
    key = acceptance.checked_key(request.headers.get("Idempotency-Key"))
    with tenant(business_id) as conn:
        accepted = acceptance.accept(conn, parts(), business_id, body, key)
    g.conversation_id = accepted.conversation_id
    reply = replies.reply_to(parts(), accepted)
    headers = {"Idempotent-Replayed": "true"} if reply.is_replayed else {}
    return Reply(reply.body.encode(), reply.status, headers)


@routes.get("/messages/<message_id>")
@auth.require_business_api_key
@contract.contract(gives="message")
def get_message(business_id: str, message_id: str) -> messages.Message:
    """One message."""
    with tenant(business_id) as conn:
        return messages.get(conn, business_id, cipher(conn, business_id), message_id)
