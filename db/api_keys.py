"""Keys of businesses: stored only as a keyed hash, looked up before the tenant is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from db import Connection, NotFound, execute, fetch_all, fetch_one
from db.paging import Page, clause

COLUMNS = "key_id, business_id, name, last4, expires_at, revoked_at, last_used_at, created_at"


@dataclass(frozen=True)
class ApiKey:
    """What may be told of a key after it was shown once."""

    key_id: str
    business_id: str
    name: str
    last4: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Holder:
    """Whose key it is; `is_stale` when its last use should be written down again; when it ends, if it does."""

    business_id: str
    key_id: str
    is_stale: bool
    expires_at: datetime | None


def insert(
    conn: Connection,
    business_id: str,
    key_id: str,
    *,
    name: str,
    key_hash: bytes,
    last4: str,
    expires_at: datetime | None,
) -> ApiKey:
    """A new key."""
    row = fetch_one(
        conn,
        "INSERT INTO api_keys (business_id, key_id, name, key_hash, last4, expires_at)"
        f" VALUES (%s, %s, %s, %s, %s, %s) RETURNING {COLUMNS}",
        [business_id, key_id, name, key_hash, last4, expires_at],
    )
    if row is None:
        raise NotFound
    return ApiKey(*row)


def find_holder(conn: Connection, key_hash: bytes) -> Holder | None:
    """Whose live key has this hash, across all businesses."""
    row = fetch_one(conn, "SELECT business_id, key_id, is_stale, expires_at FROM find_live_key(%s)", [key_hash])
    return None if row is None else Holder(*row)


def touch(conn: Connection, business_id: str, key_id: str) -> None:
    """Remember that the key was used now; a minute's precision, so that a busy key is not a hot row."""
    execute(
        conn,
        "UPDATE api_keys SET last_used_at = clock_timestamp() WHERE business_id = %s AND key_id = %s"
        " AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')",
        [business_id, key_id],
    )


def list_page(conn: Connection, business_id: str, page: Page) -> list[ApiKey]:
    """A page of the business's keys, newest first."""
    end, values = clause(page, "created_at", "key_id")
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM api_keys WHERE business_id = %(business_id)s{end}",
        values | {"business_id": business_id},
    )
    return [ApiKey(*row) for row in rows]


def expire_others(conn: Connection, business_id: str, key_id: str, seconds: int) -> None:
    """Let every other live key of the business end so many seconds from now, or earlier if it would anyway."""
    execute(
        conn,
        "UPDATE api_keys SET expires_at = least(expires_at, clock_timestamp() + make_interval(secs => %s))"
        " WHERE business_id = %s AND key_id <> %s AND revoked_at IS NULL",
        [seconds, business_id, key_id],
    )


def revoke(conn: Connection, business_id: str, key_id: str) -> None:
    """Refuse the key from now on; raises NotFound when there is no such key that is not revoked yet."""
    if not execute(
        conn,
        "UPDATE api_keys SET revoked_at = clock_timestamp()"
        " WHERE business_id = %s AND key_id = %s AND revoked_at IS NULL",
        [business_id, key_id],
    ):
        raise NotFound
