"""People: logging in with address and password, logging out, who am I."""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

import auth
import db
from api import contract, passwords, save_config, trail
from api.bodies import StrictRequest
from api.errors import InvalidRequest, LoginRefused
from api.parts import cipher, parts, tenant
from db import user_sessions, users
from db.cipher import keyed_hash

routes = Blueprint("login", __name__)


def _from_own_site(view: Callable[..., Any]) -> Callable[..., Any]:
    """Others are refused before they cost a token; a body that cannot be read is the contract's to refuse."""

    @functools.wraps(view)
    def guarded(**arguments: Any) -> Any:
        with contextlib.suppress(HTTPException, InvalidRequest):
            cast(StrictRequest, request).skim()
            auth.refuse_foreign_origin()
        return view(**arguments)

    return guarded


@routes.post("/auth/login")
@auth.public
@_from_own_site
@contract.contract(takes="login", gives="login_session", other_statuses=(401, 403, 503), limit="login")
def post_login(body: dict[str, Any]) -> Response:
    """Exchange address and password for a session of one business: a token, and the same as a cookie."""
    with parts().database.transaction(None) as conn:
        login = users.find_login(conn, parts().key_store.platform(conn).pepper, body["email"])
    if not passwords.fits(body["password"], login.password_hash if login else None) or login is None:
        _note_refusal(body["email"])
        raise LoginRefused
    business_id, role = _membership(login, body.get("business_id"))
    g.business_id, g.user_id = business_id, login.user_id
    token = auth.make_key("usr")
    with parts().database.transaction(business_id) as conn:
        expires_at = user_sessions.insert(
            conn,
            business_id,
            str(uuid.uuid4()),
            user_id=login.user_id,
            token_hash=auth.hash_of(parts().key_store.platform(conn).pepper, token),
            password_version=login.password_version,
            hours=auth.COOKIE_HOURS,
        )
        user = _shown(conn, business_id, login.user_id, role)
        trail.record(conn, business_id, "login.create", user_id=login.user_id)
    response = contract.json_response(contract.shown({"token": token, "expires_at": expires_at, "user": user}))
    response.set_cookie(auth.USER_COOKIE, token, max_age=auth.COOKIE_HOURS * 3600, **save_config.cookie_attributes())
    return response


@routes.post("/auth/logout")
@auth.public
@contract.contract(status=204, other_statuses=(403,))
def post_logout() -> Response:
    """End the session that the request carries, and remove the cookie."""
    gate: auth.Gate = current_app.extensions["auth"]
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = request.cookies.get(auth.USER_COOKIE, "")
        auth.refuse_foreign_origin()
    try:
        caller = gate.recognise(token.strip())
    except auth.Unauthorized:
        caller = None
    if caller is not None and caller.business_id and caller.user_session_id:
        with parts().database.transaction(caller.business_id) as conn:
            user_sessions.delete(conn, caller.business_id, caller.user_session_id)
    response = Response(status=204)
    response.delete_cookie(auth.USER_COOKIE, **save_config.cookie_attributes())
    return response


@routes.get("/auth/me")
@auth.require_business_api_key
@contract.contract(gives="login_user")
def get_me(business_id: str) -> dict[str, Any]:
    """Who the caller is: the person, the business and the role; a key is no person and has none."""
    caller = auth.caller()
    with tenant(business_id) as conn:
        return _shown(conn, business_id, caller.user_id, caller.role)


def _membership(login: users.Login, wanted: str | None) -> tuple[str, str]:
    """The business to log in to and the role there. Raises Forbidden, and InvalidRequest when there is a choice: what
    somebody who does not know the password never sees."""
    with parts().database.transaction(None) as conn:
        staff = {each: role for each, role in users.roles(conn, login.user_id).items() if role != "customer"}
    if wanted is not None:
        staff = {each: role for each, role in staff.items() if each == str(uuid.UUID(wanted))}
    if not staff:
        raise auth.Forbidden("this login has no role here that may log in")
    if len(staff) > 1:
        raise InvalidRequest(f"business_id: missing; one of {', '.join(staff)}", "Name the business to log in to")
    return next(iter(staff.items()))


def _note_refusal(address: str) -> None:
    """The same for every address, known or not: a keyed hash tells tries at one address from tries at many."""
    with parts().database.transaction(None) as conn:
        pepper = parts().key_store.platform(conn).pepper
    target_id = keyed_hash(pepper, f"audit_email:{address.strip().lower()}").hex()[:16]
    trail.note("login.create", target_id=target_id)


def _shown(conn: db.Connection, business_id: str, user_id: str | None, role: str | None) -> dict[str, Any]:
    contact = users.find_contact(conn, business_id, cipher(conn, business_id), user_id) if user_id else None
    told = {name: (contact or {}).get(name) for name in ("name", "email")}
    return {"user_id": user_id, "business_id": business_id, "role": role, **told}
