"""From a customer's message to a stored one: once per key, in the right conversation, in its place in the queue."""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import db
from api import answers, turns
from api.errors import ConversationBusy, ConversationCompleted, InvalidRequest, KeyReused, NoStages
from api.parts import Parts
from db import acceptance, cipher, conversations, message_requests, messages, turn_leases
from db.acceptance import Found, Sent, Terms, Wanted
from db.batch import Batch, Single
from db.cipher import Cipher
from db.message_requests import Earlier
from db.messages import Message
from db.turn_leases import Claim

MAX_WAITING = 64
MAX_KEY_CHARACTERS = 255
# What waits together is answered together, up to about one message's longest text.
MAX_MERGED_BYTES = 32_000
# Of a request's body, however its fields are ordered.
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
# Model failures end a turn for now: the same key tries again. Anything else would end the same way.
RESUMABLE = {"LLM_UNAVAILABLE", "LLM_TIMEOUT"}


@dataclass(frozen=True)
class Accepted:
    """A message that is stored and will not be lost. `turn_id` is None when people answer; `claim` is its turn when it
    is this message's at once, and `opened` opens it with what was read already; `is_repeated` when the key has been
    here before."""

    business_id: str
    conversation_id: str
    message_id: str
    turn_id: str | None
    number: int = 0
    claim: Claim | None = None
    opened: turns.Opened | None = None
    is_repeated: bool = False


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


def accept(parts: Parts, business_id: str, body: Mapping[str, Any], key: str | None) -> Accepted:
    """Store the message with all that its answer needs, or find it stored: one round trip unless people answer.
    Raises NoStages, NotFound, KeyReused, ConversationBusy and ConversationCompleted."""
    started = time.monotonic()
    alone = Single(parts.database, business_id)
    business_cipher = parts.key_store.cipher(alone, business_id)
    sent = _sent(alone, parts, business_id, body, key)
    try:
        found = _stored(alone, parts, business_cipher, sent, body)
    except db.Conflict:  # at this moment the session's conversation was opened again, or the customer forgotten
        found = _stored(alone, parts, business_cipher, sent, body)
    if found.verdict == "paused":
        with parts.database.transaction(business_id) as conn:
            found = _stored(conn, parts, business_cipher, sent, body)
            if found.verdict == "paused":
                return _left_to_people(conn, business_cipher, found.row["conversation_id"], sent, started)
    if found.verdict == "repeated":
        return _repeated(parts, business_cipher, sent, found.earlier)
    if found.verdict != "accepted":
        raise _refusal(found)
    return _accepted(parts, business_cipher, sent, found, started)


def _stored(conn: db.Connection, parts: Parts, key: Cipher, sent: Sent, body: Mapping[str, Any]) -> Found:
    settings = parts.settings
    wanted = Wanted(
        conversation_id=body.get("conversation_id"),
        session_id=body.get("session_id"),
        minutes=settings.session_timeout_minutes,
        new_conversation_id=str(uuid.uuid4()),
        new_session_id=str(uuid.uuid4()),
    )
    terms = Terms(
        owner=parts.keeper.owner,
        lease_seconds=settings.turn_lease_s,
        most_waiting=MAX_WAITING,
        most_merged_bytes=MAX_MERGED_BYTES,
        most_history=turns.HISTORY_MESSAGES,
    )
    return acceptance.accept(conn, key, sent, wanted, terms)


def _refusal(found: Found) -> Exception:
    match found.verdict:
        case "completed":
            return ConversationCompleted(f"conversation_id: {found.row['conversation_id']} takes no more messages")
        case "no stages":
            return NoStages("business_id: this business has no stages yet")
        case "busy":
            return ConversationBusy(
                f"conversation_id: {found.row['others']} messages of this conversation are being answered"
            )
    return db.NotFound()


def _accepted(parts: Parts, key: Cipher, sent: Sent, found: Found, started: float) -> Accepted:
    claim, message_id = found.claim, sent.message.message_id
    accepted = Accepted(sent.message.business_id, claim.conversation_id, message_id, claim.turn_id, claim.number)
    if not claim.epoch:
        return accepted
    setup = parts.setups.kept(sent.message.business_id, found.setup_version)
    message = replace(sent.message, conversation_id=claim.conversation_id, turn_id=claim.turn_id)

    def opened() -> turns.Work:
        if setup is None:
            return turns.loaded(parts, claim)
        asked = turns.Asked((message,), setup, {"user_id": sent.user_id, **found.contact(key)})
        return turns.opened(parts, claim, key, found.conversation(key), asked, found.history(key), (), started)

    return replace(accepted, claim=claim, opened=opened)


def _sent(conn: db.Connection, parts: Parts, business_id: str, body: Mapping[str, Any], key: str | None) -> Sent:
    user_id = str(uuid.UUID(body["user_id"]))
    message = Message(
        message_id=str(uuid.uuid4()),
        business_id=business_id,
        conversation_id="",  # found when it is stored
        turn_id=str(uuid.uuid4()),
        sender_type="user",
        message_content=body["message"],
        metadata=dict(body.get("metadata") or {}),
        created_at=datetime.now(UTC),
    )
    if key is None:
        return Sent(message, user_id, None, None)
    pepper = parts.key_store.platform(conn).pepper
    asked = {name: value for name, value in body.items() if name not in {"stream", "business_id"}}
    told = _ENCODER.encode(asked | {"user_id": user_id})
    return Sent(
        message,
        user_id,
        key_hash=cipher.keyed_hash(pepper, f"idempotency key:{business_id}:{key}"),
        # Keyed: a plain hash of a short message could be guessed.
        fingerprint=cipher.keyed_hash(pepper, f"request:{business_id}:{told}"),
    )


def _repeated(parts: Parts, key: Cipher, sent: Sent, earlier: Earlier) -> Accepted:
    if not hmac.compare_digest(bytes(earlier.fingerprint), sent.fingerprint or b""):
        raise KeyReused("Idempotency-Key: another message was sent with it")
    number = earlier.number
    if earlier.state == "failed" and earlier.turn_id is not None and earlier.error_code in RESUMABLE:
        with parts.database.transaction(sent.message.business_id) as conn:
            conversation = conversations.lock(conn, sent.message.business_id, key, earlier.conversation_id)
            if conversation.status == "completed":
                raise ConversationCompleted("conversation_id: it was completed before the message was answered")
            reopened = turn_leases.reopen(conn, sent.message.business_id, earlier.turn_id, earlier.conversation_id)
            number = reopened or earlier.number
    return Accepted(
        sent.message.business_id, earlier.conversation_id, earlier.message_id, earlier.turn_id, number, is_repeated=True
    )


def _left_to_people(conn: db.Connection, key: Cipher, conversation_id: str, sent: Sent, started: float) -> Accepted:
    """Store the message for staff; its answer is certain already."""
    business_id = sent.message.business_id
    conversation = conversations.get(conn, business_id, key, conversation_id)
    message = replace(sent.message, conversation_id=conversation_id, turn_id=None)
    answer = answers.without_reply(conversation, message, answers.timings_ms(started))
    batch = Batch(conn)
    messages.store(batch, key, message)
    message_requests.insert(
        batch, business_id, message.message_id, key_hash=sent.key_hash, fingerprint=sent.fingerprint
    )
    message_requests.answer(batch, business_id, key, 202, {message.message_id: answer})
    conversations.update(batch, business_id, conversation_id, {})
    batch.send()
    return Accepted(business_id, conversation_id, message.message_id, None)
