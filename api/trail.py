"""Writing the audit log: a change of configuration with the change itself, other uses of the master key afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flask import Flask, Response, current_app, g, has_request_context, request

import auth
import db
from api import proxies
from db import audit

log = logging.getLogger(__name__)

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_VERBS = {"GET": "read", "HEAD": "read", "POST": "create", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}
# What changes here is not configuration but daily work, or is written down by its own view.
_OPERATIONAL = {"messages", "conversations", "orders", "events", "stage_try", "login", "save_config"}


def about(target_id: str) -> str:
    """Names the object that the request makes, when its path does not."""
    g.audit_target = target_id
    return target_id


def touched(fields: Iterable[str]) -> None:
    """Names what the request really changes, when its body does not; nothing at all is no entry."""
    g.audit_fields = tuple(fields)


def record_change(conn: db.Connection, business_id: str | None) -> None:
    """Write down what this request changes, in the transaction that changes it: both happen or neither. A reading
    request, or one of a room that is no configuration, is passed over."""
    fields: tuple[str, ...] | None = g.get("audit_fields")
    if request.method in _SAFE_METHODS or _room() in _OPERATIONAL or fields == ():
        return
    body = None if request.method == "DELETE" else request.get_json()
    record(conn, business_id, _action(), target_id=_target(), fields=names(body) if fields is None else fields)


def record(
    conn: db.Connection,
    business_id: str | None,
    action: str,
    *,
    target_id: str | None = None,
    fields: Iterable[str] = (),
    user_id: str | None = None,
) -> None:
    """Write down an act of the current request, or of a command, that is done when the transaction is. `user_id`: who
    logs in with it."""
    act = _act(action, "done", target_id, tuple(fields))
    audit.insert(conn, business_id, act if user_id is None else replace(act, actor="user", user_id=user_id))
    if has_request_context():
        g.is_audited = True


def note(action: str, *, target_id: str | None) -> None:
    """Write down a refusal that belongs to no business. Nothing comes of it when that fails."""
    _write_alone(None, _act(action, "refused", target_id, ()))


def names(body: Any) -> tuple[str, ...]:
    """The fields that a checked body names, those of settings one by one; never a value."""
    if not isinstance(body, Mapping):
        return ()
    single = [name for name in body if name not in {"business_id", "settings"}]
    return (*single, *(f"settings.{name}" for name in body.get("settings") or ()))


def register(app: Flask) -> None:
    """Every request of the master key leaves an entry, whatever becomes of it."""

    @app.after_request
    def note_master(response: Response) -> Response:
        caller: auth.Caller | None = g.get("caller")
        is_written = g.get("is_audited") and response.status_code < 400
        if caller is not None and caller.is_master and not is_written:
            _note_master(response.status_code)
        return response


def _note_master(status: int) -> None:
    outcome = "done" if status < 400 else "refused" if status < 500 else "failed"
    scope: str | None = g.get("audit_scope")
    target = _target() or (g.get("business_id") if scope is None else None)
    if g.get("error_code") == "DATABASE_UNAVAILABLE":
        log.warning("a use of the master key could not be written down: %s", _action())
        return
    _write_alone(scope, _act(_action(), outcome, target, ()))


def _write_alone(business_id: str | None, act: audit.Act) -> None:
    database: db.Database = current_app.extensions["icmp"].database
    try:
        audit.insert_alone(database, business_id, act)
    except Exception:  # the answer is made: nobody is helped by losing it as well
        log.exception("an entry of the audit log was lost: %s %s", act.actor, act.action)


def _act(action: str, outcome: str, target_id: str | None, fields: tuple[str, ...]) -> audit.Act:
    if not has_request_context():
        return audit.Act("command", action, outcome, target_id=target_id, fields=fields)
    caller: auth.Caller | None = g.get("caller")
    return audit.Act(
        actor=caller.kind if caller else "nobody",
        action=action,
        outcome=outcome,
        key_id=caller.key_id if caller else None,
        user_id=caller.user_id if caller else None,
        target_id=target_id,
        fields=fields,
        client_network=proxies.client_network(24, 48),
        request_id=g.get("request_id"),
    )


def _room() -> str:
    """The file of api/ that the request's view lives in."""
    return current_app.view_functions[request.endpoint or ""].__module__.rpartition(".")[2]


def _action() -> str:
    return f"{_room()}.{_VERBS.get(request.method, request.method.lower())}"


def _target() -> str | None:
    """What the view named, else the last id of the path."""
    given: str | None = g.get("audit_target")
    return given or next(reversed((request.view_args or {}).values()), None)
