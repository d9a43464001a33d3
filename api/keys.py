"""Keys of a business: made, shown once, listed, revoked."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, paging, trail
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import parts, tenant
from db import api_keys

routes = Blueprint("keys", __name__)


@routes.post("/businesses/<business_id>/api-keys")
@auth.require_business_api_key
@contract.contract(takes="api_key_create", gives="api_key_created", status=201)
def post_api_key(business_id: str, body: dict[str, Any]) -> Reply:
    """Make a key; with expire_others_in_s, rotate: the others go on working for so long."""
    expires_at = contract.moment(body["expires_at"]) if body.get("expires_at") else None
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidRequest(f"expires_at: {body['expires_at']} is past", "Send a time in the future")
    with tenant(business_id) as conn:
        key_id = trail.about(str(uuid.uuid4()))
        secret, key = issue(conn, business_id, key_id, name=body.get("name", "key"), expires_at=expires_at)
        if "expire_others_in_s" in body:
            api_keys.expire_others(conn, business_id, key.key_id, body["expire_others_in_s"])
    location = f"/api/v1/businesses/{business_id}/api-keys/{key.key_id}"
    return Reply(contract.shown(key) | {"api_key": secret}, headers={"Location": location})


@routes.get("/businesses/<business_id>/api-keys")
@auth.require_business_api_key
@contract.contract(gives="api_key", many=True, query=paging.QUERY)
def get_api_keys(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's keys, newest first, without the keys themselves."""
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        rows = api_keys.list_page(conn, business_id, page)
    return paging.listed(rows, page, lambda row: (row.created_at, row.key_id))


@routes.delete("/businesses/<business_id>/api-keys/<key_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_api_key(business_id: str, key_id: str) -> None:
    """Revoke a key, and with it the cookies made from it. After the last one only the master can make another."""
    with tenant(business_id) as conn:
        api_keys.revoke(conn, business_id, key_id)


def issue(
    conn: db.Connection, business_id: str, key_id: str, *, name: str, expires_at: datetime | None
) -> tuple[str, api_keys.ApiKey]:
    """A new key of the business: the secret, which is not kept, and its row."""
    secret = auth.make_key("biz")
    key = api_keys.insert(
        conn,
        business_id,
        key_id,
        name=name,
        key_hash=auth.hash_of(parts().key_store.platform(conn).pepper, secret),
        last4=secret[-4:],
        expires_at=expires_at,
    )
    return secret, key
