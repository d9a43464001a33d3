"""Lists over HTTP: limit, offset and a cursor, and the Link header that leads to the next page."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from flask import request

from api.contract import Reply, moment, shown
from api.errors import InvalidRequest
from db.paging import Page

QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 100},
    "offset": {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0},
    "cursor": {"type": "string", "maxLength": 500, "description": "From the Link header of the page before."},
}
UUID = {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time"}


def page_of(query: Mapping[str, Any]) -> Page:
    """The page asked for; raises InvalidRequest for a cursor that we did not make."""
    after = _read(query["cursor"]) if "cursor" in query else None
    return Page(query.get("limit", 100), query.get("offset", 0), after)


def filters_of(query: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of the query: filters by column, times as UTC."""
    given = {name: value for name, value in query.items() if name not in QUERY}
    return {name: moment(value) if name in {"since", "until"} else value for name, value in given.items()}


def listed(rows: Sequence[Any], page: Page, last: tuple[Any, str] | None) -> Reply:
    """A page of rows; `last` is the sort value and id of its last row, None on an empty page."""
    if last is None or len(rows) < page.limit:
        return Reply(list(rows))
    parameters = {name: value for name, value in request.args.items() if name not in QUERY}
    parameters |= {"limit": str(page.limit), "cursor": _written(last)}
    return Reply(list(rows), headers={"Link": f'<{request.base_url}?{urlencode(parameters)}>; rel="next"'})


def _written(last: tuple[Any, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(shown(last)).encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[Any, str]:
    try:
        sort, key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place: datetime | int = sort if isinstance(sort, int) else moment(sort)
        if isinstance(place, bool) or not isinstance(key, str) or "\x00" in key or place == 0:
            raise ValueError
    except (ValueError, TypeError, binascii.Error, OverflowError, RecursionError):
        raise InvalidRequest("cursor: not one of ours", "Take the cursor from the Link header") from None
    return place, key
