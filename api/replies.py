"""From a stored message to its answer: wait for its turn, do it, or fetch what another worker has answered."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass

import db
from api import metrics, turns
from api.acceptance import Accepted
from api.errors import TABLE, ConversationBusy, ConversationCompleted, NoStages, TurnFailed, TurnInProgress
from api.parts import Parts
from api.turns import Fenced, Interrupted, Told
from db import message_requests, turn_leases
from db.turn_leases import Claim, Standing
from nlp.errors import ModelUnavailable

log = logging.getLogger(__name__)

REPEATED_WAIT_SECONDS = 10.0  # for the answer to a key whose first request is still at work
OUTAGE_SECONDS = 15.0  # of the database, after the message was stored
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.05, 1.0


@dataclass(frozen=True)
class Reply:
    """An answer as it is sent."""

    status: int
    body: str


def reply_to(parts: Parts, accepted: Accepted, told: Told | None = None) -> Reply:
    """The answer to a stored message. Raises ConversationBusy and TurnInProgress when it takes too long, NoStages,
    ModelUnavailable, ConversationCompleted and TurnFailed when there will be none, and DatabaseUnavailable."""
    watch(parts)
    with parts.bell.heard(accepted.conversation_id, accepted.number) as event:
        return _Waiting(parts, accepted, told, event).reply()


def watch(parts: Parts) -> None:
    """Take over turns of lost workers from now on."""
    parts.keeper.start(lambda business_id, turn_id: resume(parts, business_id, turn_id))


def resume(parts: Parts, business_id: str, turn_id: str) -> None:
    """Take over a turn whose worker was lost, if nobody else does; its outcome is in the database, never raised."""
    try:
        claim = _claim(parts, business_id, turn_id, None, waits=False)
        if claim is not None:
            _run(parts, claim, None, None)
    except (
        ModelUnavailable, ConversationCompleted, NoStages, Fenced, Interrupted, db.NotFound, db.DatabaseUnavailable,
    ) as error:  # fmt: skip
        log.warning("a turn that was taken over got no reply: %s", type(error).__name__)


class _Waiting:
    """One request and its patience."""

    def __init__(self, parts: Parts, accepted: Accepted, told: Told | None, event: threading.Event) -> None:
        self._parts, self._accepted, self._told, self._event = parts, accepted, told, event
        self._since = time.monotonic()
        self._lost_epoch: int | None = None
        self._outage_since: float | None = None

    def reply(self) -> Reply:
        claim, opened, looks = self._accepted.claim, self._accepted.opened, 0
        while True:
            if claim is not None:
                done = self._attempt(claim, opened)
                if done is not None:
                    return done
                opened = None
            # Before the look, so that a ring in between is not missed.
            self._event.clear()
            standing, done = self._look()
            if done is not None:
                return done
            claim = self._claimed(standing)
            if claim is None:
                self._check_patience(standing)
                looks += 1
                self._event.wait(_pause(standing, looks))

    def _attempt(self, claim: Claim, opened: turns.Opened | None) -> Reply | None:
        """The answer of this worker's own attempt; None when it came to nothing or another worker's counts."""
        # What an attempt has told cannot be taken back: only the first one tells.
        told, self._told = self._told, None
        try:
            answer = _run(self._parts, claim, opened, told)
        except (Fenced, Interrupted, db.DatabaseUnavailable) as error:
            # A claim that could not be given back is this request's to take up again.
            is_given_back = isinstance(error, Fenced) or (isinstance(error, Interrupted) and error.is_released)
            self._lost_epoch = None if is_given_back else claim.epoch
            return None
        return Reply(answer.status, answer.bodies[self._accepted.message_id])

    def _look(self) -> tuple[Standing | None, Reply | None]:
        """How far the message is; nothing while the database is away for a moment. Raises what the turn ended in."""
        business_id, message_id = self._accepted.business_id, self._accepted.message_id
        try:
            found = turn_leases.standing(self._parts.database, business_id, message_id)
            if found is None:
                raise self._gone()
            if found.status is not None and found.answer is not None:
                with self._parts.database.transaction(business_id) as conn:
                    key = self._parts.key_store.cipher(conn, business_id)
                body = message_requests.read(key, message_id, found.answer)
                return found, Reply(found.status, body)
        except db.DatabaseUnavailable:
            self._bear_outage()
            return None, None
        self._outage_since = None
        if found.state == "failed":
            raise _failure(found.error_code)
        return found, None

    def _gone(self) -> Exception:
        """Who sent it again finds a message withdrawn by the request that brought it; the latter one finds it gone with
        its business or user."""
        if self._accepted.is_repeated:
            return ConversationBusy("conversation_id: the message's turn did not come in time; it was not kept")
        return db.NotFound()

    def _claimed(self, standing: Standing | None) -> Claim | None:
        turn_id = self._accepted.turn_id
        if standing is None or turn_id is None or standing.ahead or (standing.is_leased and self._lost_epoch is None):
            return None
        try:
            return _claim(self._parts, self._accepted.business_id, turn_id, self._lost_epoch)
        except db.DatabaseUnavailable:
            self._bear_outage()
            return None

    def _bear_outage(self) -> None:
        """Raises DatabaseUnavailable when it has been away for too long: the sweeper goes on when it is back."""
        self._outage_since = self._outage_since or time.monotonic()
        if time.monotonic() - self._outage_since > OUTAGE_SECONDS:
            raise db.DatabaseUnavailable("the message is stored and will be answered")

    def _check_patience(self, standing: Standing | None) -> None:
        waited = time.monotonic() - self._since
        if self._accepted.is_repeated:
            if waited > REPEATED_WAIT_SECONDS:
                raise TurnInProgress("Idempotency-Key: the first request with it is still at work")
        elif standing is not None and waited > self._parts.settings.queue_wait_s:
            with self._parts.database.transaction(self._accepted.business_id) as conn:
                is_withdrawn = turn_leases.withdraw(conn, self._accepted.business_id, self._accepted.message_id)
            if is_withdrawn:
                raise ConversationBusy("conversation_id: the message's turn did not come in time; it was not kept")
            if waited > self._parts.settings.queue_wait_s + self._parts.settings.turn_timeout_s:
                raise TurnInProgress("the message is still being answered; read the conversation for the reply")


def _claim(parts: Parts, business_id: str, turn_id: str, lost_epoch: int | None, *, waits: bool = True) -> Claim | None:
    with parts.database.transaction(business_id) as conn:
        if not waits and not turn_leases.is_free(conn, business_id, turn_id):
            return None
        claim = turn_leases.claim(
            conn,
            business_id,
            turn_id,
            owner=parts.keeper.owner,
            seconds=parts.settings.turn_lease_s,
            lost_epoch=lost_epoch,
        )
    if claim is not None and claim.attempts > 1:
        metrics.TURNS_TAKEN_OVER.inc()
    return claim


def _run(parts: Parts, claim: Claim, opened: turns.Opened | None, told: Told | None) -> turns.Answer:
    try:
        return turns.run(parts, claim, opened, told)
    finally:
        parts.bell.ring(claim.conversation_id, claim.number)


def _failure(error_code: str | None) -> Exception:
    """What the request that did the turn has raised, for one that only hears of it."""
    if error_code in {"LLM_UNAVAILABLE", "LLM_TIMEOUT"}:
        return ModelUnavailable("earlier", timed_out=error_code == "LLM_TIMEOUT")
    if error_code == TABLE[ConversationCompleted].error_code:
        return ConversationCompleted("conversation_id: it was completed before the message was answered")
    if error_code == TABLE[NoStages].error_code:
        return NoStages("business_id: this business has no stages any more")
    return TurnFailed(f"the turn ended without a reply: {error_code}")


def _pause(standing: Standing | None, looks: int) -> float:
    """Seconds until the next look: the next in line looks often, the last of many rarely."""
    ahead = 0 if standing is None else standing.ahead
    pause = min(LAST_LOOK_SECONDS, FIRST_LOOK_SECONDS * (1 + ahead) * 1.2 ** min(looks, 20))
    return pause * random.uniform(0.75, 1.25)
