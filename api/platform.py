"""What operators and newcomers ask first: is it up, is it ready, what is it."""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, Response

import auth
import db
from api import contract
from api.contract import Reply
from api.parts import parts
from db import migrate
from db.cipher import Undecryptable

routes = Blueprint("platform", __name__)
log = logging.getLogger(__name__)


@routes.get("/")
@auth.public
@contract.contract(limit=None)
def get_welcome() -> Response:
    """A greeting."""
    return Response("Welcome to ICMP!", mimetype="text/plain")


@routes.get("/healthz")
@auth.public
@contract.contract(gives="health", limit=None)
def get_health() -> dict[str, str]:
    """Whether the process answers; asks nobody else."""
    return {"status": "ok"}


@routes.get("/readyz")
@auth.public
@contract.contract(gives="health", other_statuses=(503,), limit=None)
def get_readiness() -> Reply:
    """Whether requests can be served: the database answers, has every migration, and fits the encryption key."""
    checks = _checks()
    is_ready = set(checks.values()) == {"ok"}
    body: dict[str, Any] = {"status": "ok" if is_ready else "unavailable", "checks": checks}
    return Reply(body, status=200 if is_ready else 503)


def _checks() -> dict[str, str]:
    try:
        with parts().database.transaction(None) as conn:
            checks = {"database": "ok", "migrations": "behind" if migrate.missing(conn) else "ok"}
            if checks["migrations"] == "ok":
                checks["encryption_key"] = _encryption_key(conn)
            return checks
    except db.DatabaseUnavailable:
        return {"database": "unavailable"}


def _encryption_key(conn: db.Connection) -> str:
    try:
        parts().key_store.check(conn)
    except Undecryptable as error:
        log.error("the encryption key does not fit the data: %s", error)
        return "does not fit the data"
    except db.KeysUnavailable as error:
        log.warning("%s", error)
        return "unavailable"
    return "ok"
