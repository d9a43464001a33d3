"""What the views of products and services have in common."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from api import money, paging, trail
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import alone, tenant
from db.catalogue import Row, Shelf

QUERY: dict[str, dict[str, Any]] = paging.QUERY | {
    "q": {"type": "string", "minLength": 1, "maxLength": 200, "description": 'Words, "a phrase", -without, or.'},
    "active": {"type": "boolean"},
}
MAX_ATTRIBUTE_BYTES = 16 * 1024


def post(shelf: Shelf[Row], business_id: str, body: Mapping[str, Any]) -> Reply:
    """Put a new row on the shelf."""
    row_id = trail.about(str(uuid.uuid4()))
    fields = checked(body)
    with tenant(business_id) as conn:
        shelf.insert(conn, business_id, fields | {shelf.key: row_id})
        row = shelf.get(conn, business_id, row_id)
    return Reply(row, headers={"Location": f"/api/v1/{shelf.table}/{row_id}"})


def listed(shelf: Shelf[Row], business_id: str, query: Mapping[str, Any]) -> Reply:
    """A page of the shelf, newest first."""
    page = paging.page_of(query)
    rows = shelf.list_page(alone(business_id), business_id, paging.filters_of(query), page)
    return paging.listed(rows, page, lambda row: (row.created_at, getattr(row, shelf.key)))


def get(shelf: Shelf[Row], business_id: str, row_id: str) -> Row:
    """One row."""
    return shelf.get(alone(business_id), business_id, row_id)


def patch(shelf: Shelf[Row], business_id: str, row_id: str, body: Mapping[str, Any]) -> Row:
    """Replace the named fields of a row."""
    with tenant(business_id) as conn:
        shelf.update(conn, business_id, row_id, checked(body))
        return shelf.get(conn, business_id, row_id)


def delete(shelf: Shelf[Row], business_id: str, row_id: str) -> None:
    """Take a row off the shelf."""
    with tenant(business_id) as conn:
        shelf.delete(conn, business_id, row_id)


def checked(body: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a body names; raises InvalidRequest for what a schema cannot see."""
    fields = {name: value for name, value in body.items() if name != "business_id"}
    if fields.get("price") is not None:
        fields["price"] = money.amount(fields["price"], "price")
    # What is searched must stay well below the 1 MiB that PostgreSQL's tsvector can hold.
    size = len(json.dumps(fields.get("attributes", {}), ensure_ascii=False).encode())
    if size > MAX_ATTRIBUTE_BYTES:
        raise InvalidRequest(f"attributes: {size} bytes of JSON", f"Keep them within {MAX_ATTRIBUTE_BYTES} bytes")
    return fields
