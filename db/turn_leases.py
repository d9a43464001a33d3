"""Who works on a turn: claims with a lease and a fencing number, so that a turn is taken over but never done twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from db import Connection, Database, execute, fetch_one, json_value

GRACE_SECONDS = 5.0  # for a message's own request to begin its turn, once it is next
MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class Claim:
    """The right to work on a turn, until somebody else gets a higher epoch. `attempts` counts this one too."""

    business_id: str
    turn_id: str
    conversation_id: str
    number: int
    epoch: int
    attempts: int

    @property
    def named(self) -> dict[str, Any]:
        """The claim as parameters of a fenced statement."""
        return {"business_id": self.business_id, "turn_id": self.turn_id, "epoch": self.epoch}


@dataclass(frozen=True)
class Standing:
    """How far a message is: `status` and the encrypted `answer` once there is one; `state` of its turn, None when
    people answer; `ahead` counts the open turns of the conversation before it."""

    state: str | None
    error_code: str | None
    is_leased: bool
    attempts: int
    ahead: int
    status: int | None
    answer: bytes | None


def claim(
    conn: Connection, business_id: str, turn_id: str, *, owner: str, seconds: float, lost_epoch: int | None = None
) -> Claim | None:
    """The first open turn of its conversation, when nobody works on it (or only the claimer itself did, under
    `lost_epoch`). None when there is nothing to claim; a turn that MAX_ATTEMPTS could not finish fails instead."""
    row = fetch_one(
        conn,
        "UPDATE turns SET owner = %(owner)s, epoch = epoch + 1,"
        # Who claims again what it could not give back has not died of it.
        "  attempts = least(attempts + CASE WHEN epoch = %(lost_epoch)s THEN 0 ELSE 1 END, %(most)s),"
        "  lease_until = clock_timestamp() + make_interval(secs => %(seconds)s),"
        "  state = CASE WHEN attempts < %(most)s OR epoch = %(lost_epoch)s THEN state ELSE 'failed' END,"
        "  error_code = CASE WHEN attempts < %(most)s OR epoch = %(lost_epoch)s THEN error_code"
        "   ELSE 'SERVER_ERROR' END,"
        "  finished_at = CASE WHEN attempts < %(most)s OR epoch = %(lost_epoch)s THEN finished_at"
        "   ELSE clock_timestamp() END"
        " WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s AND state = 'open'"
        "  AND (lease_until IS NULL OR lease_until < clock_timestamp() OR epoch = %(lost_epoch)s)"
        "  AND NOT EXISTS (SELECT FROM turns earlier WHERE earlier.business_id = turns.business_id"
        "   AND earlier.conversation_id = turns.conversation_id AND earlier.state = 'open'"
        "   AND earlier.number < turns.number)"
        " RETURNING conversation_id, number, epoch, attempts, state",
        {
            "business_id": business_id,
            "turn_id": turn_id,
            "owner": owner,
            "seconds": seconds,
            "lost_epoch": lost_epoch,
            "most": MAX_ATTEMPTS,
        },
    )
    return Claim(business_id, turn_id, *row[:4]) if row is not None and row[4] == "open" else None


def reopen(conn: Connection, business_id: str, turn_id: str, conversation_id: str) -> int | None:
    """Put a turn that the model failed at the end of its conversation's queue, unclaimed and with all its attempts
    again; its new number, None when it is not failed any more. The caller has locked the conversation."""
    row = fetch_one(
        conn,
        "WITH next AS (UPDATE conversations SET turn_count = turn_count + 1, last_updated = clock_timestamp()"
        "  WHERE business_id = %(business_id)s AND conversation_id = %(conversation_id)s RETURNING turn_count)"
        " UPDATE turns SET state = 'open', number = turn_count, error_code = NULL, finished_at = NULL, attempts = 1,"
        "  lease_until = clock_timestamp() FROM next"
        " WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s AND state = 'failed' RETURNING number",
        {"business_id": business_id, "turn_id": turn_id, "conversation_id": conversation_id},
    )
    return None if row is None else int(row[0])


def release(database: Database, mine: Claim, *, after_seconds: float, counts: bool) -> None:
    """Let others have the turn, but not at once: what failed now would fail again. An attempt that does not count was
    not the turn's fault."""
    database.once(
        mine.business_id,
        "UPDATE turns SET lease_until = clock_timestamp() + make_interval(secs => %(after_seconds)s),"
        "  attempts = CASE WHEN %(counts)s THEN attempts ELSE greatest(1, attempts - 1) END"
        " WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s AND epoch = %(epoch)s AND state = 'open'",
        mine.named | {"after_seconds": after_seconds, "counts": counts},
    )


def withdraw(conn: Connection, business_id: str, message_id: str) -> bool:
    """Forget a message whose turn nobody has begun, and the turn with its last message; False when it has begun."""
    row = fetch_one(
        conn,
        "SELECT t.turn_id FROM turns t JOIN messages m USING (business_id, turn_id)"
        " WHERE t.business_id = %s AND m.message_id = %s AND t.state = 'open' AND t.attempts = 0 FOR UPDATE OF t",
        [business_id, message_id],
    )
    if row is None:
        return False
    execute(conn, "DELETE FROM messages WHERE business_id = %s AND message_id = %s", [business_id, message_id])
    # A statement of its own: it sees who joined or left the turn while the first one waited for it.
    execute(
        conn,
        "DELETE FROM turns WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s AND NOT EXISTS ("
        " SELECT FROM messages WHERE business_id = %(business_id)s AND turn_id = %(turn_id)s)",
        {"business_id": business_id, "turn_id": row[0]},
    )
    return True


def standing(database: Database, business_id: str, message_id: str) -> Standing | None:
    """How far a message is; None when it was withdrawn."""
    rows = database.once(
        business_id,
        "SELECT t.state, t.error_code, coalesce(t.lease_until >= clock_timestamp(), false), coalesce(t.attempts, 0),"
        " (SELECT count(*) FROM turns earlier WHERE earlier.business_id = t.business_id"
        "  AND earlier.conversation_id = t.conversation_id AND earlier.state = 'open' AND earlier.number < t.number),"
        " r.status, r.answer FROM messages m JOIN message_requests r USING (business_id, message_id)"
        " LEFT JOIN turns t USING (business_id, turn_id) WHERE m.business_id = %s AND m.message_id = %s",
        [business_id, message_id],
    )
    return Standing(*rows[0]) if rows else None


def is_free(conn: Connection, business_id: str, turn_id: str) -> bool:
    """Whether nobody has locked the turn; the caller has then, until the transaction ends."""
    return bool(
        fetch_one(
            conn,
            "SELECT true FROM turns WHERE business_id = %s AND turn_id = %s FOR UPDATE SKIP LOCKED",
            [business_id, turn_id],
        )
    )


def abandoned(database: Database, most: int) -> list[tuple[str, str]]:
    """(business_id, turn_id) of turns of all businesses that nobody works on any more, oldest first."""
    rows = database.once(None, "SELECT * FROM find_abandoned_turns(%s, %s)", [most, GRACE_SECONDS])
    return [(row[0], row[1]) for row in rows]


def renew(database: Database, business_id: str, claims: Sequence[Claim], seconds: float) -> None:
    """Keep these leases of one business alive; a lease that was lost stays lost. Who locks a turn for longer than a
    moment deletes it: leases of others must not wait for that."""
    database.once(
        business_id,
        "SET LOCAL lock_timeout = '500ms';"
        " UPDATE turns SET lease_until = clock_timestamp() + make_interval(secs => %(seconds)s)"
        " FROM jsonb_to_recordset(%(claims)s) AS claim (turn_id uuid, epoch bigint)"
        " WHERE turns.business_id = %(business_id)s AND turns.turn_id = claim.turn_id AND turns.epoch = claim.epoch"
        "  AND state = 'open' AND lease_until >= clock_timestamp()",
        {
            "business_id": business_id,
            "claims": json_value([claim.named for claim in claims]),
            "seconds": seconds,
        },
    )
