"""Analytics events: taken from anybody, all or nothing; read by the business."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint

import auth
from api import contract, paging
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import parts, tenant
from db import businesses, events

routes = Blueprint("events", __name__)
_FILTERS: dict[str, dict[str, Any]] = {
    "event_type": {"type": "string", "maxLength": 100},
    "user_id": paging.UUID,
    "since": paging.TIME,
    "until": paging.TIME,
}


@routes.post("/events")
@auth.public
@contract.contract(takes="event_batch", gives="event_batch", status=201, limit="events")
def post_events(body: Any) -> Any:
    """Store one event or an array of them; an event_id that is known already is accepted and left as it was."""
    batch = body if isinstance(body, list) else [body]
    by_business: dict[str, list[dict[str, Any]]] = {}
    for event in batch:
        stored = event | {"event_timestamp": contract.moment(event["event_timestamp"])}
        by_business.setdefault(str(uuid.UUID(event["business_id"])), []).append(stored)
    with parts().database.transaction(None) as conn:
        known = businesses.known(conn, list(by_business))
        _check_businesses(batch, known, is_array=isinstance(body, list))
        # Sorted, so that two batches cannot wait for each other's rows.
        for business_id in sorted(by_business):
            rows = sorted(by_business[business_id], key=lambda event: uuid.UUID(event["event_id"]))
            events.insert_many(conn, business_id, rows)
    return body


@routes.get("/events")
@auth.require_business_api_key
@contract.contract(gives="event", many=True, query=paging.QUERY | _FILTERS)
def get_events(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's events, newest first."""
    page = paging.page_of(query)
    with tenant(business_id) as conn:
        rows = events.list_page(conn, business_id, paging.filters_of(query), page)
    return paging.listed(rows, page, lambda row: (row.event_timestamp, row.event_id))


def _check_businesses(batch: list[dict[str, Any]], known: set[str], *, is_array: bool) -> None:
    for index, event in enumerate(batch):
        if str(uuid.UUID(event["business_id"])) not in known:
            place = f"[{index}].business_id" if is_array else "business_id"
            raise InvalidRequest(f"{place}: {event['business_id']} is no known business", "Send a known business_id")
