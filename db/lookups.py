"""Look-ups for a stage's reply: equality, full text, order and limit over fixed columns of four sources; never SQL of
anybody else's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from psycopg2 import errors, sql

from db import Connection, catalogue, execute, fetch_all, fetch_one, users
from db.cipher import Cipher

MAX_ROWS = 50
MAX_BYTES = 64 * 1024
STATEMENT_MILLISECONDS = 2000


class TooLarge(Exception):
    """Not even the first row is within MAX_BYTES."""


class TooSlow(Exception):
    """The query took more than STATEMENT_MILLISECONDS."""


@dataclass(frozen=True)
class Source:
    """One table: its columns to read, those to compare (each with what makes a value of its type), those to sort by."""

    id_column: str
    fields: tuple[str, ...]
    where: Mapping[str, Callable[[Any], Any]]
    order_by: tuple[str, ...]
    has_search: bool = False
    is_of_customers: bool = False


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    return str(value)


def _uuid(value: Any) -> str:
    return str(uuid.UUID(_text(value)))


def _number(value: Any) -> Decimal:
    text = _text(value)
    number = Decimal(text)
    # PostgreSQL refuses what is longer or larger than its own numbers.
    if len(text) > 40 or not abs(number) < Decimal("1e18"):
        raise ValueError
    return number


def _truth(value: Any) -> bool:
    if value not in (True, False, "true", "false"):
        raise ValueError
    return value in (True, "true")


def _shelf(id_column: str, more: Mapping[str, Callable[[Any], Any]]) -> Source:
    compared = {"name": _text, "sku": _text, "price": _number, "currency": _text, "active": _truth, **more}
    fields = ("name", "description", "price", "currency", "sku", *more, "attributes", "active")
    return Source(
        id_column=id_column,
        fields=(id_column, *fields, "created_at", "updated_at"),
        where={id_column: _uuid, **compared},
        order_by=("name", "price", *more, "created_at", "updated_at"),
        has_search=True,
    )


SOURCES = {
    "products": _shelf("product_id", {}),
    "services": _shelf("service_id", {"duration_minutes": _number}),
    "orders": Source(
        id_column="order_id",
        fields=(
            "order_id", "order_number", "user_id", "status", "items", "total", "currency", "created_at", "updated_at",
        ),
        where={
            "order_id": _uuid, "order_number": _text, "user_id": _uuid, "status": _text, "total": _number,
            "currency": _text,
        },
        order_by=("order_number", "status", "total", "created_at", "updated_at"),
        is_of_customers=True,
    ),
}  # fmt: skip
CONTACT = ("user_id", "name", "email", "phone_number", "profile")
CONTACT_WHERE = ("user_id", "name", "email", "phone_number")


def find_rows(
    conn: Connection,
    business_id: str,
    source: str,
    *,
    user_id: str | None,
    where: Mapping[str, Any],
    search: str | None = None,
    fields: Sequence[str] = (),
    order_by: str | None = None,
    limit: int = MAX_ROWS,
) -> list[dict[str, Any]]:
    """Rows of products, services or orders as JSON values: as many of the first `limit` as MAX_BYTES holds; with a
    `user_id` only that customer's. The transaction becomes read-only. Raises KeyError for an unknown name, TooLarge
    and TooSlow."""
    known = SOURCES[source]
    try:
        makers = {name: known.where[name] for name in where}
        compared = {name: None if value is None else makers[name](value) for name, value in where.items()}
    except (ValueError, InvalidOperation):
        return []  # no row can have such a value
    conditions = [_condition(name, value) for name, value in compared.items()]
    if "active" in known.where and "active" not in compared:
        conditions.append(sql.SQL("active"))  # what is not on offer is nothing to tell a customer of
    conditions += [sql.SQL("user_id = %(user_id)s")] if known.is_of_customers and user_id is not None else []
    conditions += [sql.SQL(f"words @@ {_SOUGHT}")] if search is not None else []
    query = sql.SQL(_QUERY).format(
        columns=sql.SQL(", ").join(sql.Identifier(_known(name, known.fields)) for name in fields or known.fields),
        table=sql.Identifier(source),
        conditions=sql.SQL("").join(sql.SQL(" AND ") + condition for condition in conditions),
        order=_order(known, order_by, is_search=search is not None),
    )
    values = {f"where_{name}": value for name, value in compared.items()}
    values |= {"business_id": business_id, "user_id": user_id, "search": search, "limit": min(limit, MAX_ROWS)}
    return _read(conn, query.as_string(conn), values | {"bytes": MAX_BYTES})


_APART = catalogue.WORDS_APART.format("%(search)s")
_SOUGHT = f"(plainto_tsquery('simple', %(search)s) || plainto_tsquery('simple', {_APART}))"
# The size is measured where the rows are: fifty rows may be fifty megabytes. The first one comes anyway, as a sign
# that there was something to find.
_QUERY = """
    SELECT document FROM (
        SELECT document, place, sum(octet_length(document)) OVER (ORDER BY place) AS total_bytes FROM (
            SELECT row_to_json(found)::text AS document, row_number() OVER () AS place FROM (
                SELECT {columns} FROM {table} WHERE business_id = %(business_id)s{conditions}
                ORDER BY {order} LIMIT %(limit)s) found) numbered) measured
    WHERE total_bytes <= %(bytes)s OR place = 1 ORDER BY place
"""


def find_customer(
    conn: Connection,
    business_id: str,
    business_cipher: Cipher,
    user_id: str,
    *,
    where: Mapping[str, Any],
    fields: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The one row of a customer, or none when something else was asked for. Raises KeyError for unknown names."""
    contact = users.find_contact(conn, business_id, business_cipher, user_id)
    if contact is None:
        return []
    row = {**dict.fromkeys(CONTACT), **contact, "user_id": user_id}
    if any(row[_known(name, CONTACT_WHERE)] != value for name, value in where.items()):
        return []
    return [{_known(name, CONTACT): row[name] for name in fields or CONTACT}]


def find_api_call(
    conn: Connection, business_id: str, business_cipher: Cipher, stage_id: str
) -> tuple[str | None, dict[str, str]]:
    """The url of a stage's api_call as it is now, with the secret headers that were saved together with it."""
    row = fetch_one(
        conn,
        "SELECT data_retrieval #>> '{config,url}', secret_headers FROM stages WHERE business_id = %s AND stage_id = %s",
        [business_id, stage_id],
    )
    if row is None or row[1] is None:
        return (None if row is None else row[0]), {}
    return row[0], business_cipher.decrypt("stages", "secret_headers", stage_id, row[1])


def list_secret_headers(
    conn: Connection, business_id: str, business_cipher: Cipher, stage_ids: Sequence[str]
) -> dict[str, dict[str, str]]:
    """The secret headers of those of these stages that have some."""
    rows = fetch_all(
        conn,
        "SELECT stage_id, secret_headers FROM stages"
        " WHERE business_id = %s AND stage_id = ANY(%s::uuid[]) AND secret_headers IS NOT NULL",
        [business_id, list(stage_ids)],
    )
    return {
        stage_id: business_cipher.decrypt("stages", "secret_headers", stage_id, sealed) for stage_id, sealed in rows
    }


def _condition(name: str, value: Any) -> sql.Composable:
    if value is None:
        return sql.SQL("{} IS NULL").format(sql.Identifier(name))
    return sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(f"where_{name}"))


def _order(known: Source, order_by: str | None, *, is_search: bool) -> sql.Composable:
    last = sql.SQL("created_at DESC, {} DESC").format(sql.Identifier(known.id_column))
    if order_by is not None:
        column = sql.Identifier(_known(order_by.removeprefix("-"), known.order_by))
        direction = sql.SQL(" DESC NULLS LAST, " if order_by.startswith("-") else " ASC NULLS LAST, ")
        return column + direction + last
    rank = sql.SQL(f"ts_rank(words, {_SOUGHT}) DESC, ")
    return rank + last if is_search else last


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise KeyError(name)
    return name


def _read(conn: Connection, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    execute(
        conn,
        "SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', %s, true)",
        [str(STATEMENT_MILLISECONDS)],
    )
    try:
        found = fetch_all(conn, query, values)
    except errors.QueryCanceled as error:
        raise TooSlow from error
    if found and len(found[0][0].encode()) > MAX_BYTES:
        raise TooLarge
    return [json.loads(document) for (document,) in found]
