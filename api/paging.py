"""Lists over HTTP: limit, offset and a cursor, and the Link header that leads to the next page."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import request

from api.contract import Reply, moment, shown
from api.errors import InvalidRequest
from api.parts import parts
from db.paging import Page

Row = TypeVar("Row")
_SEAL_BYTES = 12
QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 100},
    "offset": {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0},
    "cursor": {
        "type": "string",
        "maxLength": 500,
        "pattern": "^[A-Za-z0-9_-]+$",
        "description": "From the Link header of the page before.",
    },
}
UUID = {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time"}


def page_of(query: Mapping[str, Any]) -> Page:
    """The page asked for, and one row more, which tells whether there is another page. Raises InvalidRequest for a
    cursor that we did not make."""
    after = _read(query["cursor"]) if "cursor" in query else None
    return Page(query.get("limit", 100) + 1, query.get("offset", 0), after)


def filters_of(query: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of the query: filters by column, times as UTC."""
    given = {name: value for name, value in query.items() if name not in QUERY}
    return {name: moment(value) if name in {"since", "until"} else value for name, value in given.items()}


def listed(rows: Sequence[Row], page: Page, place: Callable[[Row], tuple[Any, str]]) -> Reply:
    """A page of the rows that were found for it; `place` gives a row's sort value and id."""
    limit = page.limit - 1
    shown_rows = list(rows[:limit])
    if len(rows) <= limit:
        return Reply(shown_rows)
    parameters = {name: value for name, value in request.args.items() if name not in QUERY}
    parameters |= {"limit": str(limit), "cursor": _written(place(shown_rows[-1]))}
    return Reply(shown_rows, headers={"Link": f'<{request.base_url}?{urlencode(parameters)}>; rel="next"'})


def _written(last: tuple[Any, str]) -> str:
    place = json.dumps(shown(last)).encode()
    return base64.urlsafe_b64encode(_seal(place) + place).decode().rstrip("=")


def _read(cursor: str) -> tuple[Any, str]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raw = b""
    seal, place = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
    if not hmac.compare_digest(seal, _seal(place)):
        raise InvalidRequest("cursor: not one of this list", "Take the cursor from the Link header")
    sort, key = json.loads(place)
    return (sort if isinstance(sort, int) else moment(sort)), key


def _seal(place: bytes) -> bytes:
    """Proves that a cursor is ours and of this list: a place among times means nothing to a list by numbers."""
    route = request.url_rule.rule if request.url_rule else ""
    secret = parts().settings.icmp_api_key.encode()
    return hmac.digest(secret, b"cursor\0" + route.encode() + b"\0" + place, hashlib.sha256)[:_SEAL_BYTES]
