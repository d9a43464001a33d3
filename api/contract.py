"""The contract of a view: what it takes and gives, checked at both ends, and the source of the OpenAPI document."""

from __future__ import annotations

import functools
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from flask import Response, current_app, request
from flask.json.provider import DefaultJSONProvider
from flask_limiter import RateLimitExceeded

import schemas
from api import bodies, faults, limits
from api.errors import InvalidRequest

_PLUS = re.compile(r"(T\S+) (\d\d:?\d\d)$")  # of a zone: unescaped in a query, it means a blank
_PLAIN = (str, int, float, type(None))
# json.dumps would make one for each body.
_ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True)
class Contract:
    """What a route promises; read by the OpenAPI document and by the house tests."""

    takes: str | None
    gives: str | None
    status: int
    many: bool
    query: Mapping[str, dict[str, Any]]
    other_statuses: tuple[int, ...]
    limit: str | None
    headers: Mapping[str, dict[str, Any]]
    streams: bool


@dataclass(frozen=True)
class Reply:
    """A view's answer when it is more than a body with the contract's status; bytes go out as they are."""

    body: Any
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def contract(
    *,
    takes: str | None = None,
    gives: str | None = None,
    status: int = 200,
    many: bool = False,
    query: Mapping[str, dict[str, Any]] | None = None,
    other_statuses: tuple[int, ...] = (),
    limit: str | None = "default",
    headers: Mapping[str, dict[str, Any]] | None = None,
    streams: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """The view gets `body` when it takes one and `query` when it has parameters, both checked; ids in the path are
    checked too. It returns a body, a Reply or a finished Response. `many`: an array of what it gives; `limit`: whose
    bucket a request takes a token from, before anything of it is checked; `headers` of requests are described
    only; `streams`: Server-Sent Events when they are asked for."""
    promised = Contract(takes, gives, status, many, query or {}, other_statuses, limit, headers or {}, streams)

    def decorate(view: Callable[..., Any]) -> Callable[..., Response]:
        @functools.wraps(view)
        def checked(**arguments: Any) -> Response:
            body = _limited_body(takes, limit)
            arguments |= _path_ids(request.view_args or {}) | _query(promised)
            if takes is not None:
                arguments["body"] = checked_body(takes, body)
                if request.method == "PATCH" and set(body) <= {"business_id"}:
                    raise InvalidRequest("the body names nothing to change", "Send at least one field")
            return _response(promised, view(**arguments))

        cast(Any, checked).contract = promised
        return checked

    return decorate


def _limited_body(takes: str | None, limit: str | None) -> Any:
    """The body's value, after a token was taken. What cannot be read at all is told even when there was none left: a
    body that is no JSON outranks the limits, and whatever the schemas find."""
    try:
        if limit is not None:
            limits.spend(limit)
    except RateLimitExceeded:
        if takes is not None:
            cast(bodies.StrictRequest, request).skim()
        raise
    if takes is None:
        _check_named(cast(bodies.StrictRequest, request).json_if_any() if request.method == "DELETE" else None)
        return None
    return request.get_json()


def _check_named(body: Any) -> None:
    """The one field that counts in a body of which nothing is needed."""
    if isinstance(body, dict) and "business_id" in body:
        named = body["business_id"]
        if not isinstance(named, str) or not schemas.FORMATS.conforms(named, "uuid"):
            raise InvalidRequest(
                f"business_id: {json.dumps(named)[:100]} is not a UUID", "Use the id as it was given to you"
            )


def checked_body(schema: str, value: Any) -> Any:
    """The value if it is as the schema wants it; raises InvalidRequest."""
    if not schemas.quick(schema)(value):
        fault = faults.first(schemas.validator(schema), value)
        if fault is not None:
            raise fault
    return value


def moment(text: str) -> datetime:
    """A checked date-time as UTC. PostgreSQL reads fewer ISO 8601 forms than the contract accepts."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _path_ids(path_ids: Mapping[str, str]) -> dict[str, str]:
    """The ids of the path, UUIDs in the one spelling that compares equal to ours."""
    checked = {}
    for name, value in path_ids.items():
        bodies.check_text(value, name)
        is_uuid = schemas.FORMATS.conforms(value, "uuid")
        if name != "template_id" and not is_uuid:
            raise InvalidRequest(f"{name}: {value[:100]!r} is not a UUID", "Use the id as it was given to you")
        checked[name] = value if name == "template_id" else value.lower()
    return checked


def _query(promised: Contract) -> dict[str, Any]:
    _check_query_text(request.query_string)
    known = {"business_id": {"type": "string", "format": "uuid"}, **promised.query}
    values = {}
    for name, texts in request.args.lists():
        if name not in known:
            raise InvalidRequest(f"{name[:100]}: unknown parameter", f"Known parameters: {', '.join(sorted(known))}")
        if len(texts) > 1:
            raise InvalidRequest(f"{name}: stands {len(texts)} times", "Send it once")
        bodies.check_text(texts[0], name)
        text = _PLUS.sub(r"\1+\2", texts[0]) if known[name].get("format") == "date-time" else texts[0]
        values[name] = faults.parameter(name, known[name], text)
    if not promised.query:
        return {}
    values.pop("business_id", None)
    return {"query": values}


def _check_query_text(query: bytes) -> None:
    """Flask would put question marks in the place of what is no text."""
    if b"%" in query or not query.isascii():
        try:
            unquote_to_bytes(query).decode()
        except UnicodeDecodeError:
            raise InvalidRequest("the query is not UTF-8", "Send text as UTF-8, percent-encoded") from None


def _response(promised: Contract, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    reply = result if isinstance(result, Reply) else Reply(result)
    status = reply.status or promised.status
    if status == 204:
        response = Response(status=204)
    else:
        text = reply.body if isinstance(reply.body, bytes) else body_text(reply.body).encode()
        if current_app.config.get("CHECK_REPLIES") and promised.gives is not None:
            _check_reply(promised, json.loads(text))
        response = Response(text, status=status, mimetype="application/json")
    response.headers.extend(dict(reply.headers))
    return response


def json_response(body: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(body_text(body), status=status, mimetype="application/json")


def body_text(body: Any) -> str:
    """A body as it is sent; UTF-8, in the order it was built."""
    return _ENCODER.encode(shown(body)) + "\n"


def _check_reply(promised: Contract, body: Any) -> None:
    for part in body if promised.many else [body]:
        errors = list(schemas.validator(promised.gives or "").iter_errors(part))
        if errors:
            raise AssertionError(f"{request.path} breaks {promised.gives}: {errors[0].json_path} {errors[0].message}")


def shown(value: Any) -> Any:
    """A row, or anything made of rows, as JSON values: the names are the same everywhere."""
    # Most values are plain, and the other questions cost more.
    return value if isinstance(value, _PLAIN) else _unfolded(value)


def _unfolded(value: Any) -> Any:
    # dict before Mapping, whose question is a slow one.
    if isinstance(value, (dict, Mapping)):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: shown(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return float(value)
    return str(value) if isinstance(value, uuid.UUID) else value


class JsonProvider(DefaultJSONProvider):
    """JSON as the contract wants it: UTF-8, in the order it was built."""

    ensure_ascii = False
    sort_keys = False
