"""Retention: deletes what is old, a little in each transaction, so that traffic beside it hardly waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from db import Connection, execute, fetch_all

CONVERSATIONS_AT_ONCE = 100
# Children first: deleting a conversation whole would cascade over everything it has in one long transaction.
_PARTS = {
    "messages": (
        "DELETE FROM messages WHERE business_id = %(business_id)s AND message_id IN (SELECT message_id FROM messages"
        " WHERE business_id = %(business_id)s AND conversation_id = ANY (%(ids)s::uuid[]) LIMIT %(limit)s)"
    ),
    "turn_steps": (
        "DELETE FROM turn_steps WHERE business_id = %(business_id)s AND (turn_id, position) IN"
        " (SELECT turn_id, position FROM turns JOIN turn_steps USING (business_id, turn_id)"
        " WHERE business_id = %(business_id)s AND conversation_id = ANY (%(ids)s::uuid[]) LIMIT %(limit)s)"
    ),
    "turns": (
        "DELETE FROM turns WHERE business_id = %(business_id)s AND turn_id IN (SELECT turn_id FROM turns"
        " WHERE business_id = %(business_id)s AND conversation_id = ANY (%(ids)s::uuid[]) LIMIT %(limit)s)"
    ),
    "conversations": (
        "DELETE FROM conversations WHERE business_id = %(business_id)s AND conversation_id IN"
        " (SELECT unnest(%(ids)s::uuid[]) LIMIT %(limit)s)"
    ),
}


@dataclass(frozen=True)
class Batch:
    """The rows that one transaction deleted, by table; `next_from` is where the next one goes on, None at the end."""

    deleted: dict[str, int]
    next_from: datetime | None = None


def list_business_ids(conn: Connection, after_id: str | None, limit: int) -> list[str]:
    """The businesses of the platform in the order of their ids."""
    return [row[0] for row in fetch_all(conn, "SELECT list_business_ids(%s::uuid, %s)", [after_id, limit])]


def delete_conversations(
    conn: Connection, business_id: str, *, older_than_days: int, limit: int, begin: datetime | None = None
) -> Batch:
    """At most `limit` rows of conversations that nothing was added to for so many days, with all they have. Those
    that somebody is writing to at this moment are left. `begin` is the `next_from` of the batch before."""
    rows = fetch_all(
        conn,
        # No conversation is younger than its last change, so the index on start_time finds the candidates; `begin`
        # keeps later batches from passing those again that began long ago and are still alive.
        "SELECT conversation_id, start_time FROM conversations WHERE business_id = %(business_id)s"
        " AND start_time >= coalesce(%(begin)s::timestamptz, '-infinity')"
        " AND start_time < now() - make_interval(days => %(days)s)"
        " AND last_updated < now() - make_interval(days => %(days)s)"
        " ORDER BY start_time, conversation_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED",
        {"business_id": business_id, "begin": begin, "days": older_than_days, "limit": CONVERSATIONS_AT_ONCE},
    )
    deleted, left, ids = {}, limit, [row[0] for row in rows]
    for table, statement in _PARTS.items():
        if ids and left:
            deleted[table] = execute(conn, statement, {"business_id": business_id, "ids": ids, "limit": left})
            left -= deleted[table]
    return Batch(deleted, rows[0][1] if rows else None)


def delete_events(
    conn: Connection, business_id: str, *, older_than_days: int, limit: int, begin: datetime | None = None
) -> Batch:
    """At most `limit` events received more than so many days ago, whatever moment they tell of. `begin` as above: it
    spares a batch the index entries of those before it."""
    rows = fetch_all(
        conn,
        "DELETE FROM events WHERE business_id = %(business_id)s AND event_id IN (SELECT event_id FROM events"
        " WHERE business_id = %(business_id)s AND received_at >= coalesce(%(begin)s::timestamptz, '-infinity')"
        " AND received_at < now() - make_interval(days => %(days)s)"
        " ORDER BY received_at LIMIT %(limit)s) RETURNING received_at",
        {"business_id": business_id, "begin": begin, "days": older_than_days, "limit": limit},
    )
    return Batch({"events": len(rows)}, max(row[0] for row in rows) if rows else None)


def delete_sessions(conn: Connection, business_id: str) -> Batch:
    """The ended sessions of browsers and of people."""
    return Batch(
        {
            table: execute(conn, f"DELETE FROM {table} WHERE business_id = %s AND expires_at < now()", [business_id])
            for table in ("sessions", "user_sessions")
        }
    )
