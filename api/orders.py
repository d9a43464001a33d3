"""Orders: what customers bought; the sum of the items is always the total."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, money, paging
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import alone, tenant
from db import orders, products, services, users

routes = Blueprint("orders", __name__)
# What an item may be one of.
_LINKS: dict[str, Any] = {"product_id": products.SHELF, "service_id": services.SHELF}
_FILTERS: dict[str, dict[str, Any]] = {
    "user_id": paging.UUID,
    "status": {"type": "string", "maxLength": 50},
    "order_number": {"type": "string", "maxLength": 64},
    "since": paging.TIME,
    "until": paging.TIME,
}


@routes.post("/orders")
@auth.require_business_api_key
@contract.contract(takes="order_create", gives="order", status=201)
def post_order(business_id: str, body: dict[str, Any]) -> Reply:
    """Write down an order; without an order_number it gets one of eight digits."""
    order_id = str(uuid.uuid4())
    with tenant(business_id) as conn:
        fields = _checked(conn, business_id, body, None) | {"order_id": order_id}
        insert = orders.insert if "order_number" in fields else orders.insert_numbered
        insert(conn, business_id, fields)
        order = orders.get(conn, business_id, order_id)
    return Reply(order, headers={"Location": f"/api/v1/orders/{order_id}"})


@routes.get("/orders")
@auth.require_business_api_key
@contract.contract(gives="order", many=True, query=paging.QUERY | _FILTERS)
def get_orders(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's orders, newest first."""
    page = paging.page_of(query)
    rows = orders.list_page(alone(business_id), business_id, paging.filters_of(query), page)
    return paging.listed(rows, page, lambda row: (row.created_at, row.order_id))


@routes.get("/orders/<order_id>")
@auth.require_business_api_key
@contract.contract(gives="order")
def get_order(business_id: str, order_id: str) -> orders.Order:
    """One order."""
    return orders.get(alone(business_id), business_id, order_id)


@routes.patch("/orders/<order_id>")
@auth.require_business_api_key
@contract.contract(takes="order_update", gives="order")
def patch_order(business_id: str, order_id: str, body: dict[str, Any]) -> orders.Order:
    """Replace the named fields of an order; new items bring a new total."""
    with tenant(business_id) as conn:
        stored = orders.get(conn, business_id, order_id, for_update=True)
        orders.update(conn, business_id, order_id, _checked(conn, business_id, body, stored))
        return orders.get(conn, business_id, order_id)


@routes.delete("/orders/<order_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_order(business_id: str, order_id: str) -> None:
    """Delete an order."""
    with tenant(business_id) as conn:
        orders.delete(conn, business_id, order_id)


def _checked(
    conn: db.Connection, business_id: str, body: Mapping[str, Any], stored: orders.Order | None
) -> dict[str, Any]:
    """The columns that a body names and the total they make; meets the customer. Raises InvalidRequest."""
    fields = {name: value for name, value in body.items() if name != "business_id"}
    old_items = stored.items if stored else []
    if "items" in body:
        items = [_normal(item, f"items[{index}]") for index, item in enumerate(body["items"])]
        fields["items"] = _named(conn, business_id, items, old_items)
    elif stored and body.get("currency", stored.currency) != stored.currency:
        raise InvalidRequest(f"currency: the items' prices are in {stored.currency}", "Send the items as well")
    if "items" in body or "total" in body:
        fields["total"] = _total(fields.get("items", old_items), body.get("total"))
    if "user_id" in body:
        fields["user_id"] = str(uuid.UUID(body["user_id"]))
        users.insert(conn, fields["user_id"])
        users.meet(conn, business_id, fields["user_id"], "customer")
    return fields


def _normal(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The item with its ids and its quantity in the one spelling we keep: 2.0 is a whole number to JSON Schema."""
    prices = {item[name] for name in ("unit_price", "price") if name in item}
    if len(prices) != 1:
        found = "missing" if not prices else "price says something else"
        raise InvalidRequest(f"{place}.unit_price: {found}", "Send the price of one piece as unit_price")
    price = float(money.amount(prices.pop(), f"{place}.unit_price"))
    ids = {name: str(uuid.UUID(item[name])) for name in _LINKS if name in item}
    rest = {name: value for name, value in item.items() if name != "price"}
    return {**rest, **ids, "quantity": int(item["quantity"]), "unit_price": price}


def _named(
    conn: db.Connection, business_id: str, items: Sequence[Mapping[str, Any]], old_items: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The items with the names of what was sold: each product and service is the business's own, or was when it was
    sold. Raises InvalidRequest."""
    names = {item[link]: item["name"] for item in old_items for link in _LINKS if link in item}
    for link, shelf in _LINKS.items():
        named = {item[link] for item in items if link in item}
        names |= shelf.names(conn, business_id, named) if named else {}
    for index, item in enumerate(items):
        unknown = [link for link in _LINKS if link in item and item[link] not in names]
        if unknown:
            kind, table = unknown[0].removesuffix("_id"), _LINKS[unknown[0]].table
            raise InvalidRequest(
                f"items[{index}].{unknown[0]}: {item[unknown[0]]} is no {kind} of this business",
                f"Name a {kind} of GET /api/v1/{table}, or leave {unknown[0]} out",
            )
        if not {"name", *_LINKS} & item.keys():
            raise InvalidRequest(f"items[{index}].name: missing", "Send a name, a product_id or a service_id")
    return [{"name": next((names[item[link]] for link in _LINKS if link in item), ""), **item} for item in items]


def _total(items: Sequence[Mapping[str, Any]], given: float | None) -> Decimal:
    """What the items cost together; raises InvalidRequest when the caller's figure is another one."""
    total = sum((item["quantity"] * Decimal(str(item["unit_price"])) for item in items), Decimal(0))
    if total > money.LARGEST:
        raise InvalidRequest(f"total: the items sum to {total:f}", f"Keep the sum within {money.LARGEST}")
    if given is not None and money.amount(given, "total") != total:
        raise InvalidRequest(
            f"total: {money.amount(given, 'total'):f} was sent, but the items sum to {total:f}",
            "Correct the total or the items, or leave total out to have it computed",
        )
    return total
