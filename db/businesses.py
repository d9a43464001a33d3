"""Businesses: the tenants themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import Connection, NotFound, allow_seconds, execute, fetch_all, fetch_one, json_value, users
from db.paging import Page

COLUMNS = (
    "business_id, owner_id, business_name, business_description, address, phone_number, website, settings, "
    "created_at, updated_at"
)
_DELETE_SECONDS = 15 * 60
# Computed from their tables, never stored.
_LISTS = """
    (SELECT coalesce(jsonb_agg(agent_id ORDER BY created_at, agent_id), '[]')
     FROM agents a WHERE a.business_id = businesses.business_id) AS agent_list,
    (SELECT coalesce(jsonb_agg(product_id ORDER BY created_at, product_id), '[]')
     FROM products p WHERE p.business_id = businesses.business_id) AS product_list,
    (SELECT coalesce(jsonb_agg(name ORDER BY created_at, service_id), '[]')
     FROM services s WHERE s.business_id = businesses.business_id) AS service_list
"""


@dataclass(frozen=True)
class Business:
    """A tenant, with the ids of its agents and products and the names of its services."""

    business_id: str
    owner_id: str
    business_name: str
    business_description: str | None
    address: str | None
    phone_number: str | None
    website: str | None
    settings: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    agent_list: list[str]
    product_list: list[str]
    service_list: list[str]


def insert(conn: Connection, business_id: str, owner_id: str, fields: Mapping[str, Any]) -> None:
    """A new business; raises Conflict when the name is taken."""
    execute(
        conn,
        "INSERT INTO businesses (business_id, owner_id, business_name, business_description, address, phone_number,"
        " website, settings) VALUES (%(business_id)s, %(owner_id)s, %(business_name)s, %(business_description)s,"
        " %(address)s, %(phone_number)s, %(website)s, %(settings)s)",
        {
            "business_id": business_id,
            "owner_id": owner_id,
            **{
                name: fields.get(name)
                for name in ("business_name", "business_description", "address", "phone_number", "website")
            },
            "settings": json_value(fields.get("settings", {})),
        },
    )


def get(conn: Connection, business_id: str, *, with_lists: bool = True) -> Business:
    """The business; raises NotFound. A turn leaves the lists out: they cost a scan of the catalogue."""
    lists = _LISTS if with_lists else "'[]'::jsonb, '[]'::jsonb, '[]'::jsonb"
    row = fetch_one(conn, f"SELECT {COLUMNS}, {lists} FROM businesses WHERE business_id = %s", [business_id])
    if row is None:
        raise NotFound
    return Business(*row)


def setup_version(conn: Connection, business_id: str) -> tuple[Any, ...]:
    """What changes whenever something changes that turns read of a set-up: the business, its agents, stages and
    templates, and the global templates. Raises NotFound."""
    row = fetch_one(
        conn,
        "SELECT b.setup_version, g.templates, g.newest FROM businesses b,"
        " (SELECT count(*) AS templates, max(created_at) AS newest FROM global_templates) g WHERE b.business_id = %s",
        [business_id],
    )
    if row is None:
        raise NotFound
    return row


def update(conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
    """Replace the named columns; raises NotFound and Conflict."""
    values = {name: json_value(value) if name == "settings" else value for name, value in fields.items()}
    columns = "".join(f"{name} = %({name})s, " for name in values)
    changed = execute(
        conn,
        f"UPDATE businesses SET {columns}updated_at = clock_timestamp() WHERE business_id = %(business_id)s",
        values | {"business_id": business_id},
    )
    if not changed:
        raise NotFound


def lock_out(conn: Connection, business_id: str) -> None:
    """End every key, cookie and session of the business, and the logins of those who work nowhere else."""
    users.end_logins(conn, business_id)
    execute(conn, "DELETE FROM user_sessions WHERE business_id = %s", [business_id])
    execute(conn, "DELETE FROM api_keys WHERE business_id = %s", [business_id])


def delete(conn: Connection, business_id: str) -> None:
    """Everything of the business goes with it, in minutes rather than seconds when it is large; raises NotFound."""
    allow_seconds(conn, _DELETE_SECONDS)
    if not execute(conn, "DELETE FROM businesses WHERE business_id = %s", [business_id]):
        raise NotFound


def list_all(conn: Connection, page: Page) -> list[Business]:
    """All businesses of the platform; for the master key only."""
    at, key = page.after or (None, None)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS}, agent_list, product_list, service_list"
        " FROM list_businesses(%s::timestamptz, %s::uuid, %s, %s)",
        [at, key, page.limit, page.offset],
    )
    return [Business(*row) for row in rows]


def known(conn: Connection, business_ids: list[str]) -> set[str]:
    """Which of these businesses exist."""
    return {row[0] for row in fetch_all(conn, "SELECT known_businesses(%s::uuid[])", [business_ids])}
