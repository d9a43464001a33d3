"""The cookie of business frontends: a key is checked once, the browser keeps an opaque session."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, g, request

import auth
from api import contract
from api.parts import parts
from db import businesses, sessions

routes = Blueprint("save_config", __name__, url_prefix="/api")


@routes.post("/save-config")
@auth.public
@contract.contract(takes="save_config", gives="saved_config", other_statuses=(401, 403))
def post_save_config(body: dict[str, Any]) -> Response:
    """Check a business key and set the cookie `businessApiKey`."""
    gate: auth.Gate = current_app.extensions["auth"]
    g.caller = caller = gate.recognise(body["businessApiKey"])
    if caller.business_id is None or caller.key_id is None or caller.session_key_id is not None:
        raise auth.Unauthorized("businessApiKey is not a business key")
    if body.get("businessId") is not None and str(uuid.UUID(body["businessId"])) != caller.business_id:
        raise auth.Forbidden("businessId is not the key's own")
    token = auth.make_key("ses")
    with parts().database.transaction(caller.business_id) as conn:
        business = businesses.get(conn, caller.business_id)
        token_hash = auth.hash_of(parts().key_store.platform(conn).pepper, token)
        sessions.insert(
            conn,
            caller.business_id,
            str(uuid.uuid4()),
            key_id=caller.key_id,
            token_hash=token_hash,
            hours=auth.COOKIE_HOURS,
        )
    response = contract.json_response({"business_id": business.business_id, "business_name": business.business_name})
    response.set_cookie(auth.COOKIE, token, max_age=auth.COOKIE_HOURS * 3600, **cookie_attributes())
    return response


@routes.post("/clear-config")
@auth.public
@contract.contract(status=204, other_statuses=(403,))
def post_clear_config() -> Response:
    """End the cookie's session and remove the cookie."""
    gate: auth.Gate = current_app.extensions["auth"]
    token = request.cookies.get(auth.COOKIE, "")
    auth.refuse_foreign_origin()
    try:
        caller = gate.recognise(token)
    except auth.Unauthorized:
        caller = None
    if caller is not None and caller.business_id and caller.session_key_id:
        with parts().database.transaction(caller.business_id) as conn:
            sessions.delete(conn, caller.business_id, caller.session_key_id)
    response = Response(status=204)
    response.delete_cookie(auth.COOKIE, **cookie_attributes())
    return response


def _site(address: str) -> tuple[str, str | None]:
    """Ports make no site of their own."""
    split = urlsplit(address)
    return split.scheme, split.hostname


def cookie_attributes() -> dict[str, Any]:
    """SameSite=Strict, unless frontends live on other sites: then None, which browsers take only with Secure."""
    crosses_sites = any(_site(origin) != _site(request.host_url) for origin in parts().settings.allowed_origins)
    return {
        "httponly": True,
        "path": "/",
        "samesite": "None" if crosses_sites else "Strict",
        "secure": crosses_sites or request.is_secure,
    }
