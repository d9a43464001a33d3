"""A customer's message in, the reply out."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g

import auth
from api import contract, turns
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
    with tenant(business_id) as conn:
        accepted = turns.accept(conn, parts(), business_id, body)
    g.conversation_id = accepted.conversation.conversation_id
    reply, status = turns.answer(parts(), accepted)
    return Reply(reply, status)


@routes.get("/messages/<message_id>")
@auth.require_business_api_key
@contract.contract(gives="message")
def get_message(business_id: str, message_id: str) -> messages.Message:
    """One message."""
    with tenant(business_id) as conn:
        return messages.get(conn, business_id, cipher(conn, business_id), message_id)
