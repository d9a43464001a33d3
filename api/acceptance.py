"""From a customer's message to a stored one: once per key, in the right conversation, in its place in the queue."""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import db
from api import answers, turns
from api.errors import ConversationBusy, ConversationCompleted, InvalidRequest, KeyReused, NoStages
from api.parts import Parts
from db import cipher, conversations, message_requests, messages, turn_leases, users
from db.batch import Batch
from db.cipher import Cipher
from db.conversations import Conversation
from db.message_requests import Earlier
from db.messages import Message
from db.turn_leases import Claim

MAX_WAITING = 64
MAX_KEY_CHARACTERS = 255
# What waits together is answered together, up to about one message's longest text.
MAX_MERGED_BYTES = 32_000
# Model failures end a turn for now: the same key tries again. Anything else would end the same way.
RESUMABLE = {"LLM_UNAVAILABLE", "LLM_TIMEOUT"}


@dataclass(frozen=True)
class Accepted:
    """A message that is stored and will not be lost. `turn_id` is None when people answer; `work` is the turn, claimed
    and loaded, when it is this message's at once; `is_repeated` when the key has been here before."""

    business_id: str
    conversation_id: str
    message_id: str
    turn_id: str | None
    number: int = 0
    work: turns.Work | None = None
    is_repeated: bool = False


@dataclass(frozen=True)
class _Sent:
    """A request and who sent it, in the one spelling that compares equal to ours."""

    business_id: str
    user_id: str
    body: Mapping[str, Any]
    key_hash: bytes | None
    fingerprint: bytes | None


def checked_key(text: str | None) -> str | None:
    """An Idempotency-Key as it was sent; raises InvalidRequest."""
    if text is None:
        return None
    if not 1 <= len(text) <= MAX_KEY_CHARACTERS or not text.isascii() or not text.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key: {len(text)} characters, expected 1 to {MAX_KEY_CHARACTERS} of printable ASCII",
            "Send a new UUID with each new message, the same one when you send it again",
        )
    return text


def accept(conn: db.Connection, parts: Parts, business_id: str, body: Mapping[str, Any], key: str | None) -> Accepted:
    """Store the message with all that its answer needs, or find it stored. Raises NoStages, NotFound, KeyReused,
    ConversationBusy and ConversationCompleted."""
    started = time.monotonic()
    business_cipher = parts.key_store.cipher(conn, business_id)
    sent = _sent(conn, parts, business_id, body, key)
    earlier = message_requests.find_by_key(conn, business_id, sent.key_hash) if sent.key_hash else None
    if earlier is not None:
        return _repeated(conn, parts, sent, earlier)
    contact = users.find_contact(conn, business_id, business_cipher, sent.user_id)
    if contact is None:
        users.insert(conn, sent.user_id)
        users.meet(conn, business_id, sent.user_id, "customer")
    setup = parts.setups.get(conn, business_id)
    conversation = _conversation(conn, parts, business_cipher, sent)
    if conversation.status == "paused":
        return _left_to_people(conn, business_cipher, conversation, sent, started)
    if not setup.stages:
        raise NoStages("business_id: this business has no stages yet")
    claim, message = _queued(conn, parts, business_cipher, conversation, sent, setup.on_concurrent_message)
    work = None
    if claim.epoch:
        asked = turns.Asked((message,), setup, {"user_id": sent.user_id, **(contact or {})})
        work = turns.opened(conn, parts, claim, conversation, asked, started)
    return Accepted(
        business_id, conversation.conversation_id, message.message_id, claim.turn_id, claim.number, work=work
    )


def _sent(conn: db.Connection, parts: Parts, business_id: str, body: Mapping[str, Any], key: str | None) -> _Sent:
    user_id = str(uuid.UUID(body["user_id"]))
    if key is None:
        return _Sent(business_id, user_id, body, None, None)
    pepper = parts.key_store.platform(conn).pepper
    asked = {name: value for name, value in body.items() if name not in {"stream", "business_id"}}
    told = json.dumps(asked | {"user_id": user_id}, sort_keys=True, ensure_ascii=False)
    return _Sent(
        business_id,
        user_id,
        body,
        key_hash=cipher.keyed_hash(pepper, f"idempotency key:{business_id}:{key}"),
        # Keyed: a plain hash of a short message could be guessed.
        fingerprint=cipher.keyed_hash(pepper, f"request:{business_id}:{told}"),
    )


def _repeated(conn: db.Connection, parts: Parts, sent: _Sent, earlier: Earlier) -> Accepted:
    if not hmac.compare_digest(bytes(earlier.fingerprint), sent.fingerprint or b""):
        raise KeyReused("Idempotency-Key: another message was sent with it")
    number = earlier.number
    if earlier.state == "failed" and earlier.turn_id is not None and earlier.error_code in RESUMABLE:
        key = parts.key_store.cipher(conn, sent.business_id)
        conversation = conversations.lock(conn, sent.business_id, key, earlier.conversation_id)
        if conversation.status == "completed":
            raise ConversationCompleted("conversation_id: it was completed before the message was answered")
        number = turn_leases.reopen(conn, sent.business_id, earlier.turn_id, earlier.conversation_id) or earlier.number
    return Accepted(
        sent.business_id, earlier.conversation_id, earlier.message_id, earlier.turn_id, number, is_repeated=True
    )


def _left_to_people(
    conn: db.Connection, key: Cipher, conversation: Conversation, sent: _Sent, started: float
) -> Accepted:
    """Store the message for staff; its answer is certain already."""
    message = _stored(conn, key, conversation, sent, None)
    conversations.update(conn, sent.business_id, key, conversation.conversation_id, {})
    answer = answers.without_reply(conversation, message, answers.timings_ms(started))
    message_requests.answer(conn, sent.business_id, key, 202, {message.message_id: answer})
    return Accepted(sent.business_id, conversation.conversation_id, message.message_id, None)


def _queued(
    conn: db.Connection, parts: Parts, key: Cipher, conversation: Conversation, sent: _Sent, policy: str
) -> tuple[Claim, Message]:
    """The message with a turn of its own, or a place in one that waits."""
    waiting = None
    if policy == "merge":
        waiting = turn_leases.find_waiting(
            conn, sent.business_id, conversation.conversation_id, most_bytes=MAX_MERGED_BYTES
        )
    if waiting is not None:
        turn_id, number = waiting
        claim = Claim(sent.business_id, turn_id, conversation.conversation_id, number, 0, 0)
        return claim, _stored(conn, key, conversation, sent, turn_id)
    claim, others = turn_leases.insert(
        conn,
        sent.business_id,
        str(uuid.uuid4()),
        conversation.conversation_id,
        owner=parts.keeper.owner,
        seconds=parts.settings.turn_lease_s,
    )
    if others > (0 if policy == "reject" else MAX_WAITING):
        raise ConversationBusy(f"conversation_id: {others} messages of this conversation are being answered")
    return claim, _stored(conn, key, conversation, sent, claim.turn_id)


def _stored(conn: db.Connection, key: Cipher, conversation: Conversation, sent: _Sent, turn_id: str | None) -> Message:
    message = Message(
        message_id=str(uuid.uuid4()),
        business_id=sent.business_id,
        conversation_id=conversation.conversation_id,
        turn_id=turn_id,
        sender_type="user",
        message_content=sent.body["message"],
        metadata=dict(sent.body.get("metadata") or {}),
        created_at=datetime.now(UTC),
    )
    both = Batch(conn)
    messages.store(both, key, message)
    message_requests.insert(
        both, sent.business_id, message.message_id, key_hash=sent.key_hash, fingerprint=sent.fingerprint
    )
    both.send()
    return message


def _conversation(conn: db.Connection, parts: Parts, key: Cipher, sent: _Sent) -> Conversation:
    """The conversation that the message belongs to, locked until it is stored."""
    if "conversation_id" in sent.body:
        named = conversations.lock(conn, sent.business_id, key, sent.body["conversation_id"])
        if named.user_id != sent.user_id:
            raise db.NotFound
        if named.status == "completed":
            raise ConversationCompleted(f"conversation_id: {named.conversation_id} takes no more messages")
        return named
    found = _open(conn, parts, key, sent)
    if found is None:
        conversations.lock_user(conn, sent.business_id, sent.user_id)
        found = _open(conn, parts, key, sent)
    if found is not None:
        return found
    conversation_id = str(uuid.uuid4())
    session_id = sent.body.get("session_id") or str(uuid.uuid4())
    conversations.insert(conn, sent.business_id, conversation_id, sent.user_id, session_id)
    return conversations.get(conn, sent.business_id, key, conversation_id)


def _open(conn: db.Connection, parts: Parts, key: Cipher, sent: _Sent) -> Conversation | None:
    if "session_id" in sent.body:
        return conversations.find_open(conn, sent.business_id, key, sent.user_id, sent.body["session_id"])
    minutes = parts.settings.session_timeout_minutes
    return conversations.find_recent(conn, sent.business_id, key, sent.user_id, minutes)
