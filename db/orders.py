"""Orders: what customers bought, at the prices of that day."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from db import Connection, NotFound, execute, fetch_all, fetch_one, json_value
from db.paging import Page, clause, conditions

COLUMNS = "order_id, business_id, order_number, user_id, status, items, total, currency, created_at, updated_at"


@dataclass(frozen=True)
class Order:
    """`items` holds name, quantity, unit_price and perhaps product_id or service_id; `user_id` is null when the
    business no longer knows the customer."""

    order_id: str
    business_id: str
    order_number: str
    user_id: str | None
    status: str
    items: list[dict[str, Any]]
    total: Decimal
    currency: str
    created_at: datetime
    updated_at: datetime


def insert(conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
    """A new order, `status` new unless given; raises Conflict when the order_number is taken."""
    sql, values = _insertion(business_id, fields)
    execute(conn, sql, values)


def insert_numbered(conn: Connection, business_id: str, fields: Mapping[str, Any]) -> None:
    """A new order under a number that we make: eight digits, by chance so that nobody can guess a neighbour's."""
    inserted = 0
    while not inserted:
        order_number = str(10_000_000 + secrets.randbelow(90_000_000))
        sql, values = _insertion(business_id, {**fields, "order_number": order_number})
        inserted = execute(conn, f"{sql} ON CONFLICT (business_id, order_number) DO NOTHING", values)


def get(conn: Connection, business_id: str, order_id: str, *, for_update: bool = False) -> Order:
    """The order, locked until the transaction ends when it is `for_update`; raises NotFound."""
    row = fetch_one(
        conn,
        f"SELECT {COLUMNS} FROM orders WHERE business_id = %s AND order_id = %s{' FOR UPDATE' if for_update else ''}",
        [business_id, order_id],
    )
    if row is None:
        raise NotFound
    return Order(*row)


FILTERS = {
    "user_id": "user_id = %(user_id)s",
    "status": "status = %(status)s",
    "order_number": "order_number = %(order_number)s",
    "since": "created_at >= %(since)s",
    "until": "created_at < %(until)s",
}


def list_page(conn: Connection, business_id: str, filters: Mapping[str, Any], page: Page) -> list[Order]:
    """A page of the business's orders, newest first; `filters` names keys of FILTERS."""
    end, values = clause(page, "created_at", "order_id")
    where = conditions(FILTERS, filters)
    rows = fetch_all(
        conn,
        f"SELECT {COLUMNS} FROM orders WHERE business_id = %(business_id)s{where}{end}",
        values | dict(filters) | {"business_id": business_id},
    )
    return [Order(*row) for row in rows]


def update(conn: Connection, business_id: str, order_id: str, fields: Mapping[str, Any]) -> None:
    """Replace the named columns; raises NotFound and Conflict."""
    columns = "".join(f"{name} = %({name})s, " for name in fields)
    changed = execute(
        conn,
        f"UPDATE orders SET {columns}updated_at = clock_timestamp()"
        " WHERE business_id = %(business_id)s AND order_id = %(order_id)s",
        _values(fields) | {"business_id": business_id, "order_id": order_id},
    )
    if not changed:
        raise NotFound


def delete(conn: Connection, business_id: str, order_id: str) -> None:
    """Raises NotFound."""
    if not execute(conn, "DELETE FROM orders WHERE business_id = %s AND order_id = %s", [business_id, order_id]):
        raise NotFound


def _insertion(business_id: str, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    values = _values(fields) | {"business_id": business_id}
    places = ", ".join(f"%({name})s" for name in values)
    return f"INSERT INTO orders ({', '.join(values)}) VALUES ({places})", values


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json_value(value) if name == "items" else value for name, value in fields.items()}
