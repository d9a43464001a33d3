"""People and what a business knows of them: users are the platform's, memberships a business's."""

from __future__ import annotations

from typing import Any

from db import Connection, cipher, execute, fetch_one
from db.cipher import Cipher


def insert(conn: Connection, user_id: str) -> None:
    """A person the platform may or may not know already."""
    # No conflict target: with one, row-level security would want the new row to be visible already.
    execute(conn, "INSERT INTO users (user_id) VALUES (%s) ON CONFLICT DO NOTHING", [user_id])


def meet(conn: Connection, business_id: str, user_id: str, role: str) -> None:
    """Make a person known to the business in this role, unless it knows them already."""
    execute(
        conn,
        "INSERT INTO memberships (business_id, user_id, role) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [business_id, user_id, role],
    )


def set_contact(conn: Connection, business_id: str, business_cipher: Cipher, user_id: str, contact: Any) -> None:
    """Replace what the business knows of the person: {"name", "email", "phone_number", "profile"}."""
    execute(
        conn,
        "UPDATE memberships SET contact = %s, updated_at = clock_timestamp() WHERE business_id = %s AND user_id = %s",
        [business_cipher.encrypt("memberships", "contact", user_id, contact), business_id, user_id],
    )


def find_contact(conn: Connection, business_id: str, business_cipher: Cipher, user_id: str) -> dict[str, Any] | None:
    """What the business knows of the person, perhaps nothing; None when it does not know the person."""
    row = fetch_one(
        conn,
        "SELECT contact FROM memberships WHERE business_id = %s AND user_id = %s",
        [business_id, user_id],
    )
    if row is None or row[0] is None:
        return None if row is None else {}
    known: dict[str, Any] = business_cipher.decrypt("memberships", "contact", user_id, row[0])
    return known


def has_login(conn: Connection, user_id: str) -> bool:
    """Whether a member of this business can log in."""
    row = fetch_one(conn, "SELECT password_hash IS NOT NULL FROM users WHERE user_id = %s", [user_id])
    return bool(row and row[0])


def set_login(
    conn: Connection, platform_cipher: Cipher, pepper: bytes, user_id: str, email: str, password_hash: str
) -> None:
    """Give a member a login; raises Conflict when the address belongs to somebody else."""
    address = email.strip().lower()
    execute(
        conn,
        "UPDATE users SET login_email_hash = %s, login_email = %s, password_hash = %s WHERE user_id = %s",
        [
            cipher.keyed_hash(pepper, f"login_email:{address}"),
            platform_cipher.encrypt("users", "login_email", user_id, address),
            password_hash,
            user_id,
        ],
    )
