"""One claimed turn from loaded to committed: load, think, save. No connection is held while the model thinks, and
nothing is written by a worker that has lost its claim."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import db
from api import answers, metrics
from api.errors import ConversationCompleted, NoStages, row_of
from api.lookups import Looker
from api.parts import Parts
from api.setups import Setup
from db import conversations, message_requests, messages, turn_leases, turns, users
from db.batch import Batch
from db.cipher import Cipher
from db.conversations import Conversation
from db.messages import Message
from db.turn_leases import MAX_ATTEMPTS, Claim
from nlp import pipeline
from nlp.errors import ModelUnavailable
from nlp.turn import Turn, Utterance, window

log = logging.getLogger(__name__)

HISTORY_MESSAGES = 100
FIRST_PAUSE_SECONDS = 0.1


class Told(Protocol):
    """Who hears how a turn goes on."""

    def news(self, turn: Turn, /) -> None:
        """The turn after a step."""

    def text(self, piece: str, /) -> None:
        """A piece of the reply."""


class Fenced(Exception):
    """Somebody else has taken the turn over, or it has ended; nothing of this attempt was written."""


class Interrupted(Exception):
    """This attempt ended by a fault of ours, which the log has; the turn is open for another one."""

    def __init__(self, text: str, *, is_released: bool) -> None:
        super().__init__(text)
        self.is_released = is_released


@dataclass(frozen=True)
class Asked:
    """What a turn answers: the customer's messages, in what set-up, from whom."""

    messages: tuple[Message, ...]
    setup: Setup
    user: Mapping[str, Any]


@dataclass
class Work:
    """An attempt at a claimed turn. `turn` goes on with each step, `kept_steps` of it are in the ledger already;
    `started` is monotonic."""

    claim: Claim
    key: Cipher
    conversation: Conversation
    asked: Asked
    turn: Turn
    kept_steps: int
    started: float


@dataclass(frozen=True)
class Answer:
    """The answer to each message of the turn, as it is sent."""

    status: int
    bodies: Mapping[str, str]


def opened(
    conn: db.Connection, parts: Parts, claim: Claim, conversation: Conversation, asked: Asked, started: float
) -> Work:
    """The turn at its beginning, or after the last step of an earlier attempt. Raises NoStages."""
    if not asked.setup.stages:
        raise NoStages("business_id: this business has no stages any more")
    key = parts.key_store.cipher(conn, claim.business_id)
    earlier = turns.list_steps(conn, claim.business_id, key, claim.turn_id) if claim.attempts > 1 else []
    metadata: dict[str, Any] = {}
    for message in asked.messages:
        metadata |= message.metadata
    turn = asked.setup.turn(
        "\n".join(message.message_content for message in asked.messages),
        metadata,
        parts.settings.openai_model,
        user=asked.user,
        history=_history(conn, parts, key, conversation),
        stage=next((each for each in asked.setup.stages if each.stage_id == conversation.stage_id), None),
        agent_id=conversation.agent_id,
        data=conversation.data,
        deadline=time.monotonic() + parts.settings.turn_timeout_s,
    )
    return Work(claim, key, conversation, asked, pipeline.restored(turn, earlier), len(earlier), started)


def run(parts: Parts, claim: Claim, work: Work | None = None, told: Told | None = None) -> Answer:
    """Do the turn and keep its answer. `told` hears of the stage, the data and the reply's text as they come. Raises
    ModelUnavailable, ConversationCompleted and NoStages (the turn has failed), Fenced, Interrupted and NotFound."""
    metrics.TURNS_IN_FLIGHT.inc()
    ids = {"turn_id": claim.turn_id, "conversation_id": claim.conversation_id, "business_id": claim.business_id}
    try:
        with parts.traces.turn(**ids), parts.keeper.holding(claim):
            work = work or _loaded(parts, claim)
            if claim.attempts == 1:
                metrics.TURN_WAIT_SECONDS.observe(_age_seconds(work))
            if work.conversation.status == "active":
                _think(parts, work, told)
            answer = _save(parts, work)
            _count(work, "degraded" if work.turn.degraded else "done")
            return answer
    except (ModelUnavailable, ConversationCompleted, NoStages) as error:
        _save_failure(parts, claim, work, error)
        raise
    except (Fenced, db.NotFound):  # not found: the business was deleted meanwhile
        raise
    except Exception as error:
        log.exception("an attempt at a turn ended", extra={"business_id": claim.business_id})
        is_released = _released(parts, claim, counts=not isinstance(error, db.DatabaseUnavailable | db.KeysUnavailable))
        raise Interrupted(f"attempt {claim.attempts} of {MAX_ATTEMPTS}", is_released=is_released) from error
    finally:
        metrics.TURNS_IN_FLIGHT.dec()


def _loaded(parts: Parts, claim: Claim) -> Work:
    started = time.monotonic()
    with parts.database.transaction(claim.business_id) as conn:
        key = parts.key_store.cipher(conn, claim.business_id)
        conversation = conversations.get(conn, claim.business_id, key, claim.conversation_id)
        if conversation.status == "completed":
            raise ConversationCompleted("conversation_id: it was completed before the message was answered")
        contact = users.find_contact(conn, claim.business_id, key, conversation.user_id)
        asked = Asked(
            tuple(messages.list_asked(conn, claim.business_id, key, claim.turn_id)),
            parts.setups.get(conn, claim.business_id),
            {"user_id": conversation.user_id, **(contact or {})},
        )
        return opened(conn, parts, claim, conversation, asked, started)


def _history(conn: db.Connection, parts: Parts, key: Cipher, conversation: Conversation) -> tuple[Utterance, ...]:
    """What was said before, oldest first, each reply after what it answers: several messages may have come first."""
    said = messages.list_said(conn, conversation.business_id, key, conversation.conversation_id, HISTORY_MESSAGES)
    replied = {message.turn_id: place for place, message in said if message.sender_type == "ai"}

    def place(entry: tuple[int, Message]) -> tuple[int, int]:
        return (replied.get(entry[1].turn_id, entry[0]), entry[0])

    in_order = [Utterance(each.sender_type, each.message_content) for _, each in sorted(said, key=place)]
    return window(in_order, parts.settings.history_tokens)


def _think(parts: Parts, work: Work, told: Told | None) -> None:
    """All steps of the turn, each kept before the next one begins; raises ModelUnavailable and Fenced."""
    look_up = Looker(parts, work.claim.business_id, work.conversation.user_id, work.claim.turn_id)
    tell = None if told is None else told.text
    for turn in pipeline.run(work.turn, parts.model.ask, parts.threads, look_up, tell=tell):
        work.turn = turn
        if told is not None:
            told.news(turn)
        if turn.response is None and len(turn.steps) > work.kept_steps:
            steps, first = turn.steps[work.kept_steps :], work.kept_steps
            if not turns.checkpoint(parts.database, work.claim, work.key, steps, first):
                raise Fenced
            metrics.count_steps(steps)
            work.kept_steps = len(turn.steps)


def _save(parts: Parts, work: Work) -> Answer:
    """Reply, state, ledger and answer in one transaction; raises Fenced."""
    claim, turn = work.claim, work.turn
    with parts.database.transaction(claim.business_id) as conn:
        current = conversations.lock(conn, claim.business_id, work.key, claim.conversation_id)
        if current.status != "active" or turn.response is None:
            # People took over while the model was thinking: its reply must not reach the customer any more.
            return _close(conn, work, current, None)
        state = {
            "stage_id": turn.stage.stage_id if turn.stage else None,
            # An agent that staff named meanwhile stays, unless this turn chose another one.
            "agent_id": current.agent_id if turn.agent_id == work.conversation.agent_id else turn.agent_id,
            "status": turn.status,
            "data": dict(turn.data),
            "missing_fields": list(turn.missing_fields),
        }
        return _close(conn, work, current, answers.reply(work.claim, turn.response), state)


def _close(
    conn: db.Connection,
    work: Work,
    current: Conversation,
    reply: Message | None,
    state: Mapping[str, Any] | None = None,
) -> Answer:
    """End the turn with its ledger, the answer to each of its messages and the conversation's new state; raises
    Fenced."""
    business_id, timings = work.claim.business_id, answers.timings_ms(work.started, work.turn)
    made = {} if reply is None else _made(work.turn, current)
    rest = _finish(conn, work, {"state": "done", "timings_ms": timings, **made})
    bodies = {
        message.message_id: answers.without_reply(current, message, timings)
        if reply is None
        else answers.with_reply(current, message, work.turn, reply, timings)
        for message in work.asked.messages
    }
    answer = Answer(202 if reply is None else 200, bodies)
    message_requests.answer(rest, business_id, work.key, answer.status, bodies)
    if reply is not None and state is not None:
        messages.store(rest, work.key, reply)
        conversations.update(rest, business_id, work.key, work.claim.conversation_id, state)
    rest.send()
    return answer


def _made(turn: Turn, before: Conversation) -> dict[str, Any]:
    """What a turn with a reply makes of its conversation, for analytics: known at this moment only."""
    return {
        "entered_stage": turn.stage is not None and turn.stage.stage_id != before.stage_id,
        "missing_fields": list(turn.missing_fields),
        "conversation_status": turn.status,
    }


def _finish(conn: db.Connection, work: Work, values: Mapping[str, Any]) -> Batch:
    """Close the turn if it is still this worker's, else raise Fenced; its last steps, and whatever else the caller
    adds, still have to be sent."""
    turn = work.turn
    outcome = {
        "stage_id": turn.stage.stage_id if turn.stage else None,
        "stage_name": turn.stage.stage_name if turn.stage else None,
        "agent_id": turn.agent_id,
        "confidence": turn.confidence,
        "model": turn.answered_by or turn.model,
        "degraded": turn.degraded,
        **turn.usage,
        **values,
    }
    if not turns.finish(conn, work.claim, outcome):
        raise Fenced
    rest = Batch(conn)
    turns.insert_steps(rest, work.claim, work.key, turn.steps[work.kept_steps :], work.kept_steps)
    return rest


def _save_failure(parts: Parts, claim: Claim, work: Work | None, error: Exception) -> None:
    """The turn has failed, and its conversation is free for the next one."""
    failed = {"state": "failed", "error_code": row_of(error).error_code}
    with parts.database.transaction(claim.business_id) as conn:
        if work is None:
            turns.finish(conn, claim, failed | {"timings_ms": {}})
        else:
            _finish(conn, work, failed | {"timings_ms": answers.timings_ms(work.started, work.turn)}).send()
    if work is not None:
        _count(work, "failed")


def _count(work: Work, outcome: str) -> None:
    metrics.count_steps(work.turn.steps[work.kept_steps :])
    metrics.count_turn(outcome, _age_seconds(work))


def _age_seconds(work: Work) -> float:
    """Since the first of its messages was stored, perhaps by another machine's clock."""
    return max(0.0, (datetime.now(UTC) - work.asked.messages[0].created_at).total_seconds())


def _released(parts: Parts, claim: Claim, *, counts: bool) -> bool:
    """Open the turn for the next attempt. When even that fails, the lease runs out by itself."""
    pause = FIRST_PAUSE_SECONDS * 2**claim.attempts
    try:
        turn_leases.release(parts.database, claim, after_seconds=pause, counts=counts)
    except db.DatabaseUnavailable:
        return False
    return True
