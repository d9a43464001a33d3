"""One claimed turn from loaded to committed: load, think, save. No connection is held while the model thinks, and
nothing is written by a worker that has lost its claim."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import db
from api import answers, metrics
from api.errors import ConversationCompleted, NoStages, row_of
from api.lookups import Looker
from api.parts import Parts
from api.setups import Setup
from db import conversations, messages, turn_leases, turns, users
from db.batch import Single
from db.cipher import Cipher
from db.conversations import Conversation
from db.messages import Message, Said
from db.turn_leases import MAX_ATTEMPTS, Claim
from db.turns import Step
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


# Opens a turn with what was read already; raises NoStages.
Opened = Callable[[], Work]


def opened(
    parts: Parts,
    claim: Claim,
    key: Cipher,
    conversation: Conversation,
    asked: Asked,
    history: Sequence[Said],
    earlier: Sequence[Step],
    started: float,
) -> Work:
    """The turn at its beginning, or after the last step of an earlier attempt. Raises NoStages."""
    if not asked.setup.stages:
        raise NoStages("business_id: this business has no stages any more")
    metadata: dict[str, Any] = {}
    for message in asked.messages:
        metadata |= message.metadata
    turn = asked.setup.turn(
        "\n".join(message.message_content for message in asked.messages),
        metadata,
        parts.settings.openai_model,
        user=asked.user,
        history=window(_in_order(history), parts.settings.history_tokens),
        stage=next((each for each in asked.setup.stages if each.stage_id == conversation.stage_id), None),
        agent_id=conversation.agent_id,
        data=conversation.data,
        deadline=time.monotonic() + parts.settings.turn_timeout_s,
    )
    return Work(claim, key, conversation, asked, pipeline.restored(turn, earlier), len(earlier), started)


def run(parts: Parts, claim: Claim, opened: Opened | None = None, told: Told | None = None) -> Answer:
    """Do the turn, which `opened` opens if it was read already, and keep its answer. `told` hears of the stage, the
    data and the reply's text as they come. Raises ModelUnavailable, ConversationCompleted and NoStages (the turn has
    failed), Fenced, Interrupted and NotFound."""
    metrics.TURNS_IN_FLIGHT.inc()
    work: Work | None = None
    ids = {"turn_id": claim.turn_id, "conversation_id": claim.conversation_id, "business_id": claim.business_id}
    try:
        with parts.traces.turn(**ids), parts.keeper.holding(claim):
            work = loaded(parts, claim) if opened is None else opened()
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


def loaded(parts: Parts, claim: Claim) -> Work:
    """A turn of which nothing was read yet. Raises ConversationCompleted, NoStages and NotFound."""
    started = time.monotonic()
    with parts.database.transaction(claim.business_id, of_one_moment=True) as conn:
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
        history = messages.list_said(conn, claim.business_id, key, claim.conversation_id, HISTORY_MESSAGES)
        earlier = turns.list_steps(conn, claim.business_id, key, claim.turn_id) if claim.attempts > 1 else ()
    return opened(parts, claim, key, conversation, asked, history, earlier, started)


def _in_order(history: Sequence[Said]) -> list[Utterance]:
    """What was said before, oldest first, each reply after what it answers: several messages may have come first."""
    replied = {each.turn_id: each.sequence for each in history if each.sender_type == "ai"}

    def place(each: Said) -> tuple[int, int]:
        return (replied.get(each.turn_id, each.sequence), each.sequence)

    return [Utterance(each.sender_type, each.message_content) for each in sorted(history, key=place)]


def _think(parts: Parts, work: Work, told: Told | None) -> None:
    """The steps of the turn, each kept before the next one begins: all, or those before people took the conversation
    over. Raises ModelUnavailable and Fenced."""
    look_up = Looker(parts, work.claim.business_id, work.conversation.user_id, work.claim.turn_id)
    tell = None if told is None else told.text
    alone = Single(parts.database, work.claim.business_id)
    for turn in pipeline.run(work.turn, parts.model.ask, parts.threads, look_up, tell=tell):
        work.turn = turn
        if told is not None:
            told.news(turn)
        if turn.response is None and len(turn.steps) > work.kept_steps:
            steps, first = turn.steps[work.kept_steps :], work.kept_steps
            verdict = turns.checkpoint(alone, work.claim, work.key, steps, first)
            if verdict == "fenced":
                raise Fenced
            metrics.count_steps(steps)
            work.kept_steps = len(turn.steps)
            if verdict == "not active":
                return


def _save(parts: Parts, work: Work) -> Answer:
    """Reply, state, ledger and answer in one transaction; raises Fenced, ConversationCompleted and NotFound."""
    if work.conversation.status == "active" and work.turn.response is not None:
        answer = _saved_with_reply(parts, work, work.turn.response)
        if answer is not None:
            return answer
    # People took over while the model was thinking: its reply must not reach the customer any more.
    business_id, timings = work.claim.business_id, answers.timings_ms(work.started, work.turn)
    with parts.database.transaction(business_id) as conn:
        current = conversations.lock(conn, business_id, work.key, work.claim.conversation_id)
        if current.status == "completed":
            raise ConversationCompleted("conversation_id: it was completed while the message was being answered")
        bodies = {
            each.message_id: answers.without_reply(current, each, timings, work.turn) for each in work.asked.messages
        }
        _end(conn, work, {"state": "done", "timings_ms": timings}, status=202, bodies=bodies)
    return Answer(202, bodies)


def _saved_with_reply(parts: Parts, work: Work, text: str) -> Answer | None:
    """The answer with a reply; None when the conversation is not the model's any more."""
    turn, timings, reply = work.turn, answers.timings_ms(work.started, work.turn), answers.reply(work.claim, text)
    bodies = {
        message.message_id: answers.with_reply(work.conversation, message, turn, reply, timings)
        for message in work.asked.messages
    }
    ending = turns.Ending(
        reply=reply,
        stage_id=turn.stage.stage_id if turn.stage else None,
        agent_id=turn.agent_id,
        is_agent_chosen=turn.agent_id != work.conversation.agent_id,
        status=turn.status,
        data=turn.data,
        missing_fields=turn.missing_fields,
    )
    alone = Single(parts.database, work.claim.business_id)
    outcome = {"state": "done", "timings_ms": timings}
    is_ended = _end(alone, work, outcome, status=200, bodies=bodies, ending=ending)
    return Answer(200, bodies) if is_ended else None


def _end(conn: db.Connection, work: Work, values: Mapping[str, Any], **further: Any) -> bool:
    """End the turn if it is still this worker's, else raise Fenced; False, and nothing written, when its reply must not
    be sent. Raises NotFound."""
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
    rest = turn.steps[work.kept_steps :]
    return _is_ended(turns.end(conn, work.claim, work.key, outcome, rest, work.kept_steps, **further))


def _is_ended(verdict: str) -> bool:
    if verdict == "fenced":
        raise Fenced
    if verdict == "not found":
        raise db.NotFound
    return verdict == "ended"


def _save_failure(parts: Parts, claim: Claim, work: Work | None, error: Exception) -> None:
    """The turn has failed, and its conversation is free for the next one."""
    failed = {"state": "failed", "error_code": row_of(error).error_code}
    alone = Single(parts.database, claim.business_id)
    if work is None:
        key = parts.key_store.cipher(alone, claim.business_id)
        _is_ended(turns.end(alone, claim, key, failed | {"timings_ms": {}}, (), 0))
    else:
        _end(alone, work, failed | {"timings_ms": answers.timings_ms(work.started, work.turn)})
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
