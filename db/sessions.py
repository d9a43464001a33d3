"""Cookie sessions: an opaque token bound to the key it was made with."""

from __future__ import annotations

from dataclasses import dataclass

from db import Connection, execute, fetch_one
from db.api_keys import Holder


@dataclass(frozen=True)
class Session:
    """A live session and the live key it was made with."""

    holder: Holder
    session_key_id: str


def insert(
    conn: Connection, business_id: str, session_key_id: str, *, key_id: str, token_hash: bytes, hours: int
) -> None:
    """A new session that ends after so many hours at the latest; the business's ended ones are swept away."""
    execute(
        conn,
        "DELETE FROM sessions WHERE business_id = %s AND expires_at < clock_timestamp()",
        [business_id],
    )
    execute(
        conn,
        "INSERT INTO sessions (business_id, session_key_id, key_id, token_hash, expires_at)"
        " VALUES (%s, %s, %s, %s, clock_timestamp() + make_interval(hours => %s))",
        [business_id, session_key_id, key_id, token_hash, hours],
    )


def find(conn: Connection, token_hash: bytes, idle_minutes: int) -> Session | None:
    """The live session with this token, across all businesses."""
    row = fetch_one(
        conn,
        "SELECT business_id, key_id, is_stale, expires_at, session_key_id"
        " FROM find_live_session(%s, make_interval(mins => %s))",
        [token_hash, idle_minutes],
    )
    return None if row is None else Session(Holder(*row[:4]), row[4])


def touch(conn: Connection, business_id: str, session_key_id: str) -> None:
    """Put off the end of an idle session."""
    execute(
        conn,
        "UPDATE sessions SET last_seen_at = clock_timestamp() WHERE business_id = %s AND session_key_id = %s",
        [business_id, session_key_id],
    )


def delete(conn: Connection, business_id: str, session_key_id: str) -> None:
    """End a session."""
    execute(conn, "DELETE FROM sessions WHERE business_id = %s AND session_key_id = %s", [business_id, session_key_id])
