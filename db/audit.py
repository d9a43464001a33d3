"""The audit log: who did what, when, from where. Rows are added and read, never changed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, Database, execute, fetch_all
from db.paging import Page, clause, conditions

# The scope of what concerns no business: a tenant that nobody can be.
PLATFORM = str(uuid.UUID(int=0))
COLUMNS = (
    "audit_id, business_id, created_at, actor, key_id, user_id, action, target_id, fields, outcome, client_network, "
    "request_id"
)
FILTERS = {
    "action": "action = %(action)s",
    "actor": "actor = %(actor)s",
    "since": "created_at >= %(since)s",
    "until": "created_at < %(until)s",
}


@dataclass(frozen=True)
class Entry:
    """One act. `fields` are names only; `client_network` is the caller's address cut to /24 or /48."""

    audit_id: str
    business_id: str
    created_at: datetime
    actor: str
    key_id: str | None
    user_id: str | None
    action: str
    target_id: str | None
    fields: list[str]
    outcome: str
    client_network: str | None
    request_id: str | None


@dataclass(frozen=True)
class Act:
    """What is to be written down; the rest of the row the database knows."""

    actor: str
    action: str
    outcome: str = "done"
    key_id: str | None = None
    user_id: str | None = None
    target_id: str | None = None
    fields: tuple[str, ...] = ()
    client_network: str | None = None
    request_id: str | None = None


_INSERT = (
    "INSERT INTO audit_log (business_id, audit_id, actor, key_id, user_id, action, target_id, fields, outcome,"
    " client_network, request_id) SELECT %(business_id)s, %(audit_id)s, %(actor)s, %(key_id)s, %(user_id)s, %(action)s,"
    " %(target_id)s, %(fields)s::text[], %(outcome)s, %(client_network)s, %(request_id)s"
)


def insert(conn: Connection, business_id: str | None, act: Act) -> None:
    """Write it down in the scope of the transaction's business; None is the platform's, and from here on the
    transaction sees nothing else."""
    if business_id is None:
        execute(conn, "SELECT set_config('icmp.business_id', %s, true)", [PLATFORM])
    execute(conn, _INSERT, _values(business_id or PLATFORM, act))


def insert_alone(database: Database, business_id: str | None, act: Act) -> None:
    """The same in a transaction of its own, which does not wait for the disk: a crash of the server may lose the last
    moment of it. Raises DatabaseUnavailable."""
    scope = business_id or PLATFORM
    unhurried = " FROM (SELECT set_config('synchronous_commit', 'off', true)) AS setting"
    database.once(scope, _INSERT + unhurried, _values(scope, act))


def _values(scope: str, act: Act) -> dict[str, Any]:
    return vars(act) | {"fields": list(act.fields), "business_id": scope, "audit_id": str(uuid.uuid4())}


def list_page(conn: Connection, business_id: str, filters: Mapping[str, Any], page: Page) -> list[Entry]:
    """A page of the business's log, newest first; `filters` names keys of FILTERS."""
    end, values = clause(page, "created_at", "audit_id")
    where = conditions(FILTERS, filters)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM audit_log WHERE business_id = %(business_id)s{where}{end}",
        values | dict(filters) | {"business_id": business_id},
    )
    return [Entry(*row) for row in rows]


def list_platform(conn: Connection, filters: Mapping[str, Any], page: Page) -> list[Entry]:
    """A page of what the master key was used for anywhere, and of what concerns no business; newest first."""
    at, key = page.after or (None, None)
    given = [filters.get(name) for name in FILTERS]
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM list_platform_audit(%s, %s, %s::timestamptz, %s::timestamptz, %s::timestamptz,"
        " %s::uuid, %s, %s)",
        [*given, at, key, page.limit, page.offset],
    )
    return [Entry(*row) for row in rows]
