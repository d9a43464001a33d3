"""Sessions of people who logged in: an opaque token bound to a membership and to the password of that moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from db import Connection, NotFound, execute, fetch_one


@dataclass(frozen=True)
class UserSession:
    """A live session and the member's role as it is now; `is_stale` when its last use should be written down again."""

    business_id: str
    user_session_id: str
    user_id: str
    role: str
    is_stale: bool


def insert(
    conn: Connection,
    business_id: str,
    user_session_id: str,
    *,
    user_id: str,
    token_hash: bytes,
    password_version: int,
    hours: int,
) -> datetime:
    """A new session; when it ends at the latest. The business's ended ones are swept away."""
    execute(conn, "DELETE FROM user_sessions WHERE business_id = %s AND expires_at < clock_timestamp()", [business_id])
    row = fetch_one(
        conn,
        "INSERT INTO user_sessions (business_id, user_session_id, user_id, token_hash, password_version, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, clock_timestamp() + make_interval(hours => %s)) RETURNING expires_at",
        [business_id, user_session_id, user_id, token_hash, password_version, hours],
    )
    if row is None:
        raise NotFound
    expires_at: datetime = row[0]
    return expires_at


def find(conn: Connection, token_hash: bytes, idle_minutes: int) -> UserSession | None:
    """The live session with this token, across all businesses."""
    row = fetch_one(
        conn,
        "SELECT business_id, user_session_id, user_id, role, is_stale"
        " FROM find_user_session(%s, make_interval(mins => %s))",
        [token_hash, idle_minutes],
    )
    return None if row is None else UserSession(*row)


def touch(conn: Connection, business_id: str, user_session_id: str) -> None:
    """Put off the end of an idle session."""
    execute(
        conn,
        "UPDATE user_sessions SET last_seen_at = clock_timestamp() WHERE business_id = %s AND user_session_id = %s",
        [business_id, user_session_id],
    )


def delete(conn: Connection, business_id: str, user_session_id: str) -> None:
    """End a session."""
    execute(
        conn,
        "DELETE FROM user_sessions WHERE business_id = %s AND user_session_id = %s",
        [business_id, user_session_id],
    )


def delete_every(conn: Connection, business_id: str, user_id: str) -> None:
    """End all of a member's sessions with this business."""
    execute(conn, "DELETE FROM user_sessions WHERE business_id = %s AND user_id = %s", [business_id, user_id])
