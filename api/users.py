"""Users: the people a business knows, staff and customers, and the logins of those who work for it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, limits, paging, passwords, trail
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import cipher, parts, tenant
from db import businesses, user_sessions, users

routes = Blueprint("users", __name__)
_FILTERS = {"role": {"type": "string", "enum": ["owner", "admin", "operator", "viewer", "customer"]}}
_CONTACT = ("name", "email", "phone_number", "profile")
_LOGIN = {"login_email", "password", "current_password"}


@routes.post("/users")
@auth.require_business_api_key
@contract.contract(takes="user_create", gives="user", status=201, other_statuses=(503,))
def post_user(business_id: str, body: dict[str, Any]) -> Reply:
    """Make a person known to the business; `email` and `password` together give a login to who has none."""
    user_id = trail.about(str(uuid.UUID(body.get("user_id") or str(uuid.uuid4()))))
    role = body.get("role", "customer")
    _check_rank(role)
    if "password" in body and not body.get("email"):
        raise InvalidRequest("email: missing, but there is a password", "Send both, or neither")
    password_hash = passwords.hashed(body["password"]) if "password" in body else None
    with tenant(business_id) as conn:
        users.lock_newcomer(conn, user_id)
        users.insert(conn, user_id)
        if not users.meet(conn, business_id, user_id, role):
            raise db.Conflict("user_id is a user of this business already")
        _check_joining(conn, business_id, user_id, role)
        key = cipher(conn, business_id)
        users.set_contact(conn, business_id, key, user_id, _contact(body))
        if password_hash is not None:
            _give_login(conn, business_id, user_id, body["email"], password_hash)
        user = users.get(conn, business_id, key, user_id)
    return Reply(user, headers={"Location": f"/api/v1/users/{user_id}"})


@routes.get("/users")
@auth.require_business_api_key
@contract.contract(gives="user", many=True, query=paging.QUERY | _FILTERS)
def get_users(business_id: str, query: dict[str, Any]) -> Reply:
    """The people the business knows, newest first."""
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        rows = users.list_page(conn, business_id, cipher(conn, business_id), paging.filters_of(query), page)
    return paging.listed(rows, page, lambda row: (row.created_at, row.user_id))


@routes.get("/users/<user_id>")
@auth.require_business_api_key
@contract.contract(gives="user")
def get_user(business_id: str, user_id: str) -> users.User:
    """One person as the business knows them."""
    with tenant(business_id) as conn:
        return users.get(conn, business_id, cipher(conn, business_id), user_id)


@routes.patch("/users/<user_id>")
@auth.require_business_api_key
@auth.for_room("login")
@contract.contract(takes="user_update", gives="user", other_statuses=(503,))
def patch_user(business_id: str, user_id: str, body: dict[str, Any]) -> users.User:
    """Replace the named fields; `login_email` and `password` are the person's own to change, or the master's."""
    is_own = auth.caller().user_id == user_id
    if not is_own or set(body) - _LOGIN - {"business_id"}:
        auth.require_right("users")
    if is_own and set(body) & _LOGIN:
        _check_current_password(business_id, user_id, body.get("current_password"))
    password_hash = passwords.hashed(body["password"]) if "password" in body else None
    with tenant(business_id) as conn:
        key = cipher(conn, business_id)
        known = users.get(conn, business_id, key, user_id, for_update=True)
        _check_rank(known.role, body.get("role", known.role))
        if "role" in body:
            if known.role == "customer":
                _check_joining(conn, business_id, user_id, body["role"])
            _change_role(conn, business_id, user_id, body["role"])
        contact = {name: getattr(known, name) for name in _CONTACT} | _contact(body)
        users.set_contact(conn, business_id, key, user_id, contact)
        if set(body) & _LOGIN:
            _change_login(conn, business_id, user_id, body, password_hash)
        return users.get(conn, business_id, key, user_id)


@routes.delete("/users/<user_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_user(business_id: str, user_id: str) -> None:
    """Forget a person with their conversations, and a login that opens nothing else; orders stay, without the name."""
    with tenant(business_id) as conn:
        key = cipher(conn, business_id)
        _check_rank(users.get(conn, business_id, key, user_id, for_update=True).role)
        if businesses.get(conn, business_id, with_lists=False).owner_id == user_id:
            raise db.Conflict("user_id is the owner of the business")
        users.delete(conn, business_id, user_id)


def _contact(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in _CONTACT if name in body}


def _check_rank(*roles: str) -> None:
    """An admin could otherwise become an owner, or take an owner's login, and with it the keys."""
    if "owner" in roles and auth.caller().role not in {None, "owner"}:
        raise auth.Forbidden("role: only an owner makes, changes and removes owners")


def _check_joining(conn: db.Connection, business_id: str, user_id: str, role: str) -> None:
    """Rights go to a login only when no other business can have made it: whoever made it may know its password."""
    if role == "customer" or auth.caller().is_master:
        return
    users.lock(conn, user_id)
    if not users.has_login(conn, user_id):
        return
    maker = users.login_maker(conn, user_id)
    if (maker or business_id) != business_id or (maker is None and set(users.roles(conn, user_id)) != {business_id}):
        raise db.Conflict("role: only the master may give this person rights here")


def _change_role(conn: db.Connection, business_id: str, user_id: str, role: str) -> None:
    if role != "owner" and businesses.get(conn, business_id, with_lists=False).owner_id == user_id:
        raise db.Conflict("role: the owner of the business stays its owner")
    users.set_role(conn, business_id, user_id, role)
    if role == "customer":
        user_sessions.delete_every(conn, business_id, user_id)


def _check_current_password(business_id: str, user_id: str, password: str | None) -> None:
    """A stolen session must not become a stolen login."""
    if password is None:
        raise InvalidRequest("current_password: missing", "Send the password that you log in with now")
    limits.spend("login")
    with parts().database.transaction(business_id) as conn:
        login = users.find_own_login(conn, user_id)
    if not passwords.fits(password, login.password_hash if login else None):
        raise auth.Forbidden("current_password is wrong")


def _change_login(
    conn: db.Connection, business_id: str, user_id: str, body: Mapping[str, Any], password_hash: str | None
) -> None:
    users.lock(conn, user_id)
    if not users.has_login(conn, user_id):
        address = body.get("login_email") or body.get("email")
        if password_hash is None or not address:
            raise InvalidRequest("login_email, password: there is no login yet", "Send both to give one")
        _give_login(conn, business_id, user_id, address, password_hash)
        return
    if not auth.caller().is_master and auth.caller().user_id != user_id:
        raise auth.Forbidden("login_email, password: only the person changes them, or the master")
    platform = parts().key_store.platform(conn)
    if "login_email" in body:
        users.set_login_email(conn, platform.cipher, platform.pepper, user_id, body["login_email"])
    if password_hash is not None:
        users.set_password(conn, user_id, password_hash)


def _give_login(conn: db.Connection, business_id: str, user_id: str, email: str, password_hash: str) -> None:
    """Only who is known nowhere else, unless the master asks: a login opens every business that the person works for,
    and whoever gives it knows its password. One answer for both reasons: it tells nothing of other businesses."""
    users.lock(conn, user_id)
    is_elsewhere = set(users.roles(conn, user_id)) != {business_id}
    if users.has_login(conn, user_id) or (is_elsewhere and not auth.caller().is_master):
        raise db.Conflict("password: this person has a login, or only the master may give one: leave it out")
    platform = parts().key_store.platform(conn)
    users.set_login(
        conn, business_id, platform.cipher, platform.pepper, user_id, email=email, password_hash=password_hash
    )
