"""Analytics events: taken from anybody, all or nothing; read by the business."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, paging
from api.contract import Reply
from api.errors import InvalidRequest
from api.parts import alone, parts
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
@contract.contract(takes="event_batch", gives="event_batch_accepted", status=201, limit="events")
def post_events(body: Any) -> Any:
    """Store one event or an array of them; an event_id that is known already is accepted and left as it was."""
    batch = body if isinstance(body, list) else [body]
    by_business: dict[str, list[dict[str, Any]]] = {}
    for event in batch:
        stored = event | {"event_timestamp": contract.moment(event["event_timestamp"])}
        by_business.setdefault(str(uuid.UUID(event["business_id"])), []).append(stored)
    # Sorted, so that two batches cannot wait for each other's rows.
    groups = {
        business_id: sorted(by_business[business_id], key=lambda event: uuid.UUID(event["event_id"]))
        for business_id in sorted(by_business)
    }
    try:
        _store(groups)
    except db.Conflict:
        _refuse_unknown(batch, is_array=isinstance(body, list))
        raise
    return body


@routes.get("/events")
@auth.require_business_api_key
@contract.contract(gives="event", many=True, query=paging.QUERY | _FILTERS)
def get_events(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's events, newest first."""
    page = paging.page_of(query)
    rows = events.list_page(alone(business_id), business_id, paging.filters_of(query), page)
    return paging.listed(rows, page, lambda row: (row.event_timestamp, row.event_id))


def _store(groups: dict[str, list[dict[str, Any]]]) -> None:
    """All of it or nothing; raises Conflict when one of the businesses does not exist."""
    database = parts().database
    if len(groups) == 1:
        [(business_id, rows)] = groups.items()
        database.once(business_id, *events.insertion(business_id, rows))
    elif groups:
        with database.transaction(None) as conn:
            for business_id, rows in groups.items():
                events.insert_many(conn, business_id, rows)


def _refuse_unknown(batch: list[dict[str, Any]], *, is_array: bool) -> None:
    """Only asked when storing failed: nearly every event is of a business that exists."""
    with parts().database.transaction(None) as conn:
        known = businesses.known(conn, [event["business_id"] for event in batch])
    for index, event in enumerate(batch):
        if str(uuid.UUID(event["business_id"])) not in known:
            place = f"[{index}].business_id" if is_array else "business_id"
            raise InvalidRequest(f"{place}: {event['business_id']} is no known business", "Send a known business_id")
