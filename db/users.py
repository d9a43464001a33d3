"""People and what a business knows of them: users are the platform's, memberships a business's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, cipher, execute, fetch_all, fetch_one
from db.cipher import Cipher
from db.paging import Page, clause, conditions

COLUMNS = "user_id, business_id, role, created_at, updated_at"
# What the encrypted column `contact` holds.
_SECRET = ("name", "email", "phone_number", "profile")
LOGIN_COLUMNS = "user_id, password_hash, password_version"
FILTERS = {"role": "role = %(role)s"}


@dataclass(frozen=True)
class User:
    """A member of a business, and what this business knows of the person."""

    user_id: str
    business_id: str
    role: str
    created_at: datetime
    updated_at: datetime
    name: str | None
    email: str | None
    phone_number: str | None
    profile: dict[str, Any]


@dataclass(frozen=True)
class Login:
    """What a password is checked against; `password_version` counts its changes."""

    user_id: str
    password_hash: str
    password_version: int


def insert(conn: Connection, user_id: str) -> None:
    """A person the platform may or may not know already."""
    # No conflict target: with one, row-level security would want the new row to be visible already.
    execute(conn, "INSERT INTO users (user_id) VALUES (%s) ON CONFLICT DO NOTHING", [user_id])


def meet(conn: Connection, business_id: str, user_id: str, role: str) -> bool:
    """Make a person known to the business in this role; False when it knows them already."""
    return bool(
        execute(
            conn,
            "INSERT INTO memberships (business_id, user_id, role) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [business_id, user_id, role],
        )
    )


def get(conn: Connection, business_id: str, business_cipher: Cipher, user_id: str, *, for_update: bool = False) -> User:
    """The member, locked until the transaction ends when it is `for_update`; raises NotFound."""
    row = fetch_one(
        conn,
        f"SELECT {COLUMNS}, contact FROM memberships WHERE business_id = %s AND user_id = %s"
        f"{' FOR UPDATE' if for_update else ''}",
        [business_id, user_id],
    )
    if row is None:
        raise NotFound
    return _user(business_cipher, row)


def list_page(
    conn: Connection, business_id: str, business_cipher: Cipher, filters: Mapping[str, Any], page: Page
) -> list[User]:
    """A page of the business's members, newest first; `filters` names keys of FILTERS."""
    end, values = clause(page, "created_at", "user_id")
    where = conditions(FILTERS, filters)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS}, contact FROM memberships WHERE business_id = %(business_id)s{where}{end}",
        values | dict(filters) | {"business_id": business_id},
    )
    return [_user(business_cipher, row) for row in rows]


def set_role(conn: Connection, business_id: str, user_id: str, role: str) -> None:
    """Give a member another role."""
    execute(
        conn,
        "UPDATE memberships SET role = %s, updated_at = clock_timestamp() WHERE business_id = %s AND user_id = %s",
        [role, business_id, user_id],
    )


def delete(conn: Connection, business_id: str, user_id: str) -> None:
    """Forget a member: their conversations and sessions go with them, their orders lose their name, and their login
    goes when this was their last business. Raises NotFound."""
    lock(conn, user_id)
    end_logins(conn, business_id, user_id)
    if not execute(conn, "DELETE FROM memberships WHERE business_id = %s AND user_id = %s", [business_id, user_id]):
        raise NotFound


def end_logins(conn: Connection, business_id: str, user_id: str | None = None) -> None:
    """Before a business forgets this member, or all it has: a login that would open nothing any more goes, and its
    address is free again. Who is but a customer elsewhere cannot log in there."""
    execute(
        conn,
        "UPDATE users SET login_email_hash = NULL, login_email = NULL, password_hash = NULL, login_made_by = NULL"
        " WHERE user_id IN (SELECT m.user_id FROM memberships m WHERE m.business_id = %(business_id)s"
        "  AND (%(user_id)s::uuid IS NULL OR m.user_id = %(user_id)s))"
        " AND password_hash IS NOT NULL AND NOT EXISTS (SELECT FROM list_memberships(user_id) elsewhere"
        "  WHERE elsewhere.business_id <> %(business_id)s AND elsewhere.role <> 'customer')",
        {"business_id": business_id, "user_id": user_id},
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
    return None if row is None else read_contact(business_cipher, user_id, row[0])


def read_contact(business_cipher: Cipher, user_id: str, contact: bytes | None) -> dict[str, Any]:
    """What the column `contact` of a membership holds."""
    known: dict[str, Any] = (
        {} if contact is None else business_cipher.decrypt("memberships", "contact", user_id, contact)
    )
    return known


def has_login(conn: Connection, user_id: str) -> bool:
    """Whether a member of this business can log in."""
    return find_own_login(conn, user_id) is not None


def lock_newcomer(conn: Connection, user_id: str) -> None:
    """Until the transaction ends no other business meets this person, known or not. Comes before `meet`: two that have
    met them would wait for each other in `lock`, and before it the row cannot be seen."""
    execute(conn, "SELECT pg_advisory_xact_lock(hashtextextended('icmp.user:' || %s, 0))", [user_id])


def lock(conn: Connection, user_id: str) -> None:
    """Until the transaction ends no other business meets this person, and nobody else changes the login."""
    execute(conn, "SELECT 1 FROM users WHERE user_id = %s FOR UPDATE", [user_id])


def login_maker(conn: Connection, user_id: str) -> str | None:
    """The business that gave a member of this one the login; None when nobody knows."""
    row = fetch_one(conn, "SELECT login_made_by FROM users WHERE user_id = %s", [user_id])
    return None if row is None else row[0]


def set_login(
    conn: Connection,
    business_id: str,
    platform_cipher: Cipher,
    pepper: bytes,
    user_id: str,
    *,
    email: str,
    password_hash: str,
) -> None:
    """Give a member of the business a login; raises Conflict when the address belongs to somebody else."""
    set_login_email(conn, platform_cipher, pepper, user_id, email)
    set_password(conn, user_id, password_hash)
    execute(conn, "UPDATE users SET login_made_by = %s WHERE user_id = %s", [business_id, user_id])


def set_login_email(conn: Connection, platform_cipher: Cipher, pepper: bytes, user_id: str, email: str) -> None:
    """Another address to log in with; raises Conflict when it belongs to somebody else."""
    stored = platform_cipher.encrypt("users", "login_email", user_id, _address(email))
    execute(
        conn,
        "UPDATE users SET login_email_hash = %s, login_email = %s WHERE user_id = %s",
        [_email_hash(pepper, email), stored, user_id],
    )


def set_password(conn: Connection, user_id: str, password_hash: str) -> None:
    """Another password; ends every session that was opened with the one before, in all businesses."""
    execute(
        conn,
        "UPDATE users SET password_hash = %s, password_version = password_version + 1 WHERE user_id = %s",
        [password_hash, user_id],
    )


def find_login(conn: Connection, pepper: bytes, email: str) -> Login | None:
    """The login with this address, across all businesses."""
    row = fetch_one(conn, f"SELECT {LOGIN_COLUMNS} FROM find_login(%s)", [_email_hash(pepper, email)])
    return None if row is None else Login(*row)


def find_own_login(conn: Connection, user_id: str) -> Login | None:
    """A member's login, if there is one."""
    row = fetch_one(
        conn, f"SELECT {LOGIN_COLUMNS} FROM users WHERE user_id = %s AND password_hash IS NOT NULL", [user_id]
    )
    return None if row is None else Login(*row)


def roles(conn: Connection, user_id: str) -> dict[str, str]:
    """The person's role by business, across all businesses: nothing that a business may be told of another one."""
    rows = fetch_all(conn, "SELECT business_id, role FROM list_memberships(%s)", [user_id])
    return {row[0]: row[1] for row in rows}


def _user(business_cipher: Cipher, row: tuple[Any, ...]) -> User:
    *columns, stored = row
    contact: dict[str, Any] = {"profile": {}}
    if stored is not None:
        contact |= business_cipher.decrypt("memberships", "contact", row[0], stored)
    return User(*columns, *(contact.get(name) for name in _SECRET))


def _address(email: str) -> str:
    return email.strip().lower()


def _email_hash(pepper: bytes, email: str) -> bytes:
    return cipher.keyed_hash(pepper, f"login_email:{_address(email)}")
