"""Conversations as staff see them: their state, their messages, and answering in the model's place."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint

import auth
from api import contract, paging
from api.contract import Reply
from api.errors import ConversationCompleted, InvalidRequest
from api.parts import cipher, tenant
from db import agents, conversations, messages, turns

routes = Blueprint("conversations", __name__)
_FILTERS: dict[str, dict[str, Any]] = {
    "user_id": paging.UUID,
    "session_id": {"type": "string", "maxLength": 200},
    "status": {"type": "string", "enum": ["active", "paused", "completed"]},
    "stage_id": paging.UUID,
    "agent_id": paging.UUID,
    "since": paging.TIME,
    "until": paging.TIME,
}


@routes.get("/conversations")
@auth.require_business_api_key
@contract.contract(gives="conversation", many=True, query=paging.QUERY | _FILTERS)
def get_conversations(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's conversations, newest start first."""
    return _listed(business_id, query, paging.filters_of(query))


@auth.require_business_api_key
@contract.contract(gives="conversation", many=True, query=paging.QUERY)
def get_conversations_of_user(business_id: str, user_id: str, query: dict[str, Any]) -> Reply:
    """The conversations of one user, newest start first; the path of the first sketch."""
    return _listed(business_id, query, {"user_id": user_id})


@routes.get("/conversations/<conversation_id>")
@auth.require_business_api_key
@contract.contract(gives="conversation")
def get_conversation(business_id: str, conversation_id: str) -> conversations.Conversation:
    """One conversation with what it has collected."""
    with tenant(business_id) as conn:
        return conversations.get(conn, business_id, cipher(conn, business_id), conversation_id)


@routes.patch("/conversations/<conversation_id>")
@auth.require_business_api_key
@contract.contract(takes="conversation_update", gives="conversation")
def patch_conversation(business_id: str, conversation_id: str, body: dict[str, Any]) -> conversations.Conversation:
    """Pause, resume or complete a conversation, or hand it to another agent."""
    values: dict[str, Any] = {name: body[name] for name in ("status", "agent_id") if name in body}
    with tenant(business_id) as conn:
        key = cipher(conn, business_id)
        conversations.get(conn, business_id, key, conversation_id)
        agent_id = values.get("agent_id")
        if agent_id is not None and not agents.exists(conn, business_id, agent_id):
            raise InvalidRequest(f"agent_id: {agent_id} is no agent of this business", "Name an agent, or null")
        conversations.update(conn, business_id, conversation_id, values)
        return conversations.get(conn, business_id, key, conversation_id)


@routes.get("/conversations/<conversation_id>/messages")
@auth.require_business_api_key
@contract.contract(gives="message", many=True, query=paging.QUERY)
def get_messages(business_id: str, conversation_id: str, query: dict[str, Any]) -> Reply:
    """The messages of a conversation, newest first."""
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        key = cipher(conn, business_id)
        conversations.get(conn, business_id, key, conversation_id)
        rows = messages.list_page(conn, business_id, key, conversation_id, page)
        return paging.listed(
            rows, page, lambda row: (messages.sequence(conn, business_id, row.message_id), row.message_id)
        )


@routes.post("/conversations/<conversation_id>/messages")
@auth.require_business_api_key
@contract.contract(takes="operator_message", gives="message", status=201)
def post_operator_message(business_id: str, conversation_id: str, body: dict[str, Any]) -> Reply:
    """Answer the customer as staff; an Idempotency-Key does not count here."""
    with tenant(business_id) as conn:
        key = cipher(conn, business_id)
        if conversations.get(conn, business_id, key, conversation_id).status == "completed":
            raise ConversationCompleted("status: completed takes no more messages")
        message = messages.insert(
            conn,
            key,
            messages.Message(
                message_id=str(uuid.uuid4()),
                business_id=business_id,
                conversation_id=conversation_id,
                turn_id=None,
                sender_type="operator",
                message_content=body["message"],
                metadata={},
                created_at=datetime.now(UTC),
            ),
        )
        conversations.update(conn, business_id, conversation_id, {})
    return Reply(message, headers={"Location": f"/api/v1/messages/{message.message_id}"})


@routes.get("/conversations/<conversation_id>/turns")
@auth.require_business_api_key
@contract.contract(gives="turn_summary", many=True, query=paging.QUERY)
def get_turns(business_id: str, conversation_id: str, query: dict[str, Any]) -> Reply:
    """The turns of a conversation, newest first, without their steps."""
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        conversations.get(conn, business_id, cipher(conn, business_id), conversation_id)
        rows = turns.list_page(conn, business_id, conversation_id, page)
    return paging.listed(rows, page, lambda row: (row.number, row.turn_id))


def _listed(business_id: str, query: dict[str, Any], filters: dict[str, Any]) -> Reply:
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        rows = conversations.list_page(conn, business_id, cipher(conn, business_id), filters, page)
    return paging.listed(rows, page, lambda row: (row.start_time, row.conversation_id))
