"""Businesses: onboarding a tenant, and its own description of itself."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, keys, paging, passwords, trail
from api.contract import Reply
from api.parts import cipher, parts, tenant
from db import businesses, users

routes = Blueprint("businesses", __name__)
_INFORMATION = ("business_name", "business_description", "address", "phone_number", "website")


@routes.post("/businesses")
@auth.require_api_key
@contract.contract(takes="business_create", gives="business_created", status=201)
def post_business(body: dict[str, Any]) -> Reply:
    """Onboard a business: itself, its owner, its data key and its first API key."""
    created = onboard(body)
    return Reply(created, headers={"Location": f"/api/v1/businesses/{created['business_id']}"})


def onboard(body: dict[str, Any]) -> dict[str, Any]:
    """A new business from a checked body: the object with its first `api_key`. Raises Conflict."""
    business_id, owner_id = str(uuid.uuid4()), str(uuid.UUID(body["owner_id"]))
    # Before the transaction: argon2id takes its time on purpose.
    password_hash = passwords.hashed(body["owner"]["password"]) if body.get("owner") else ""
    with parts().database.transaction(business_id) as conn:
        users.insert(conn, owner_id)
        businesses.insert(conn, business_id, owner_id, body)
        users.meet(conn, business_id, owner_id, "owner")
        parts().key_store.create(conn, business_id)
        if body.get("owner"):
            _give_owner_login(conn, business_id, owner_id, body["owner"], password_hash)
        secret, _ = keys.issue(conn, business_id, str(uuid.uuid4()), name="first key", expires_at=None)
        trail.record(conn, business_id, "businesses.create", target_id=business_id, fields=trail.names(body))
        return _shown(businesses.get(conn, business_id)) | {"api_key": secret}


@routes.get("/businesses")
@auth.require_api_key
@contract.contract(gives="business", many=True, query=paging.QUERY)
def get_businesses(query: dict[str, Any]) -> Reply:
    """All businesses of the platform, newest first."""
    page = paging.page_of(query)
    with parts().database.transaction(None) as conn:
        rows = businesses.list_all(conn, page)
    return paging.listed([_shown(row) for row in rows], page, lambda row: (row["created_at"], row["business_id"]))


@routes.get("/businesses/<business_id>")
@auth.require_business_api_key
@contract.contract(gives="business")
def get_business(business_id: str) -> dict[str, Any]:
    """One business."""
    with tenant(business_id) as conn:
        return _shown(businesses.get(conn, business_id))


@routes.patch("/businesses/<business_id>")
@auth.require_business_api_key
@contract.contract(takes="business_update", gives="business")
def patch_business(business_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Replace the named fields of a business."""
    with tenant(business_id) as conn:
        businesses.update(conn, business_id, {name: value for name, value in body.items() if name != "business_id"})
        return _shown(businesses.get(conn, business_id))


@routes.delete("/businesses/<business_id>")
@auth.require_api_key
@contract.contract(status=204)
def delete_business(business_id: str) -> None:
    """Delete a business with everything it has; without its data keys nothing of it can be read any more."""
    # First what nobody can wait for, and for good: whatever becomes of the rows, from here on they are unreadable.
    with tenant(business_id) as conn:
        parts().key_store.destroy(conn, business_id)
        businesses.lock_out(conn, business_id)
    with parts().database.transaction(business_id) as conn:
        businesses.delete(conn, business_id)
    parts().key_store.forget(business_id)


def _shown(business: businesses.Business) -> dict[str, Any]:
    values: dict[str, Any] = contract.shown(business)
    return values | {"business_information": {name: values[name] for name in _INFORMATION}}


def _give_owner_login(
    conn: db.Connection, business_id: str, owner_id: str, owner: dict[str, Any], password_hash: str
) -> None:
    if users.has_login(conn, owner_id):
        raise db.Conflict("owner_id has a login already: leave `owner` out")
    platform = parts().key_store.platform(conn)
    users.set_login(
        conn,
        business_id,
        platform.cipher,
        platform.pepper,
        owner_id,
        email=owner["email"],
        password_hash=password_hash,
    )
    contact = {name: owner[name] for name in ("name", "email") if name in owner}
    users.set_contact(conn, business_id, cipher(conn, business_id), owner_id, contact)
