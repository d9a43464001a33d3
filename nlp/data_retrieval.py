"""Data retrieval: what a stage wants looked up, filled in from the turn. The looking up itself is handed in."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from nlp import addresses, exchange, messages, templates
from nlp.addresses import BadAddress
from nlp.errors import BadLookUp, LookUpFailed
from nlp.turn import Turn

KIND = "data_retrieval"
METHODS = ("database_query", "api_call")
BODIED = ("POST", "PUT", "PATCH", "DELETE")
DEFAULT_LIMIT = 10
DEFAULT_TIMEOUT_S = 5.0
MAX_FILLED = 1024 * 1024

_LEFT_OUT = object()
_SEPARATOR = re.compile(r"[/\\]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What frames a message, names its receiver or its packing is not for tenants to write.
_OWN_HEADERS = {
    "accept-encoding", "connection", "content-length", "expect", "host", "idempotency-key", "keep-alive", "te",
    "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip


@dataclass(frozen=True)
class DatabaseQuery:
    """Rows of the business's own tables; no `fields` means all. `matches_nothing` when a `where` on orders lost a key:
    without it other orders than the one that was meant would match."""

    source: str
    where: Mapping[str, Any] = field(default_factory=dict)
    search: str | None = None
    fields: Sequence[str] = ()
    order_by: str | None = None
    limit: int = DEFAULT_LIMIT
    any_customer: bool = False
    matches_nothing: bool = False


@dataclass(frozen=True)
class ApiCall:
    """One HTTP request, without the stage's secret headers; `deadline` is on the monotonic clock."""

    stage_id: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    result_path: str = ""
    deadline: float = math.inf


Request = DatabaseQuery | ApiCall
LookUp = Callable[[Request], list[dict[str, Any]]]


def is_due(turn: Turn) -> bool:
    """Whether the stage looks something up and all that must be known for it is known."""
    return not turn.missing_fields and turn.stage_or_best.data_retrieval.get("method") in METHODS


def run(turn: Turn, look_up: LookUp) -> Turn:
    """The turn with `retrieved` and the step in its ledger; a failure is data for the reply."""
    started = time.monotonic()
    asked: Mapping[str, Any] = turn.stage_or_best.data_retrieval
    retrieved: dict[str, Any]
    verdict = None
    try:
        asked = {"method": asked["method"], "config": _filled_in(asked["config"], messages.look_up_values(turn))}
        retrieved = {"rows": _rows(_request(turn, asked), look_up)}
    except LookUpFailed as failed:
        retrieved = {"error": failed.reason}
        verdict = {"reason": failed.reason} | ({} if failed.status is None else {"status": failed.status})
    step = replace(
        exchange.skipped(KIND, turn),
        outcome="failed" if verdict else "ok",
        attempts=1,
        latency_ms=round((time.monotonic() - started) * 1000, 3),
        prompt=asked,
        output=retrieved,
        verdict=verdict,
    )
    return turn.changed(retrieved=retrieved, steps=(*turn.steps, step))


def check(section: Mapping[str, Any], exceptions: Collection[str]) -> None:
    """Raises BadLookUp for an api_call that could never run; `exceptions` as in API_CALL_ALLOWED_HOSTS."""
    if section["method"] != "api_call":
        return
    config = section["config"]
    _check_url(config["url"], exceptions)
    for place in ("headers", "secret_headers"):
        taken = [name for name in config.get(place, {}) if _is_own_header(name)]
        if taken:
            raise BadLookUp(f"data_retrieval.config.{place}: {taken[0]} is written by the platform; leave it out")
    for name, value in config.get("headers", {}).items():
        if _CONTROL.search(value):
            raise BadLookUp(f"data_retrieval.config.headers.{name}: it has a line break or another control character")
    for name, value in config.get("secret_headers", {}).items():
        if value is not None and ("{{" in value or _CONTROL.search(value)):
            raise BadLookUp(f"data_retrieval.config.secret_headers.{name}: it is sent as it is; use plain text")
    if config.get("body") is not None and config.get("method", "GET") not in BODIED:
        raise BadLookUp(f"data_retrieval.config.body: only {', '.join(BODIED)} have one; name one as the method")


def _check_url(text: str, exceptions: Collection[str]) -> None:
    if addresses.origin(text) is None:
        raise BadLookUp(
            "data_retrieval.config.url: host and port must be literal; templated values follow the path's /"
        )
    sample = "".join(part if isinstance(part, str) else "x" for part in templates.parts(text))
    try:
        addresses.check(addresses.parse(sample), exceptions)
    except BadAddress as error:
        raise BadLookUp(f"data_retrieval.config.url: {error}") from None


def _is_own_header(name: str) -> bool:
    return name.lower() in _OWN_HEADERS or name.lower().startswith("proxy-")


def _rows(request: Request, look_up: LookUp) -> list[dict[str, Any]]:
    if isinstance(request, DatabaseQuery) and request.matches_nothing:
        return []
    return look_up(request)


def _request(turn: Turn, asked: Mapping[str, Any]) -> Request:
    stage, config = turn.stage_or_best, dict(asked["config"])
    if asked["method"] == "database_query":
        lost = len(config.get("where", {})) < len(stage.data_retrieval["config"].get("where", {}))
        return DatabaseQuery(**config, matches_nothing=lost and config["source"] == "orders")
    config = {name: value for name, value in config.items() if value is not None}
    query = config.pop("query", {})
    if query:
        told = urlencode({name: templates.as_text(value) for name, value in query.items()}, quote_via=quote)
        config["url"] += ("&" if "?" in config["url"] else "?") + told
    config["headers"] = {name: _header(value) for name, value in config.get("headers", {}).items()}
    return ApiCall(stage.stage_id, **config, deadline=turn.deadline)


def _filled_in(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its values; raises LookUpFailed when the url lacks one, and when it grows too large."""
    known: dict[str, Any] = {name: value for name, value in config.items() if name != "url"}
    filled: dict[str, Any] = _filled(known, values, _Room())
    if "search" in filled:
        filled["search"] = templates.as_text(filled["search"])
    return {"url": _url(config["url"], values), **filled} if "url" in config else filled


class _Room:
    """How much a configuration may still grow: it names a long message as often as it likes."""

    def __init__(self) -> None:
        self._left = MAX_FILLED

    def taken(self, value: Any) -> Any:
        """The value, if there is room for it as well; raises LookUpFailed."""
        parts = [value]
        while parts:
            part = parts.pop()
            self._left -= len(part) if isinstance(part, str) else 1
            if self._left < 0:
                raise LookUpFailed("too_large")
            if isinstance(part, Mapping):
                parts += [*part, *part.values()]
            elif isinstance(part, list | tuple):
                parts += part
        return value


def _filled(value: Any, values: Mapping[str, Any], room: _Room) -> Any:
    """The value with its variables filled in; one that is nothing but a variable without a value is _LEFT_OUT."""
    if isinstance(value, str):
        return room.taken(_text(value, values))
    if isinstance(value, Mapping):
        pairs = ((name, _filled(item, values, room)) for name, item in value.items())
        return {name: item for name, item in pairs if item is not _LEFT_OUT}
    if isinstance(value, list):
        return [item for item in (_filled(each, values, room) for each in value) if item is not _LEFT_OUT]
    return value


def _text(text: str, values: Mapping[str, Any]) -> Any:
    match [part for part in templates.parts(text) if part]:
        case [tuple() as path]:
            found = templates.find(values, path)
            return _LEFT_OUT if found is None else found
        case _:
            return templates.render(text, values)


def _url(text: str, values: Mapping[str, Any]) -> str:
    """The URL with its values percent-encoded, none of which can change which resource or host it names."""
    pieces: list[str] = []
    for part in templates.parts(text):
        if isinstance(part, str):
            pieces.append(part)
            continue
        value = templates.as_text(templates.find(values, part))
        if not value:
            # An address without its last part often means all there is, of every customer.
            raise LookUpFailed("missing_value")
        # Many servers decode the path before they split it.
        if "?" not in "".join(pieces) and _SEPARATOR.search(value):
            raise LookUpFailed("blocked")
        pieces.append(quote(value, safe=""))
    return "".join(pieces)


def _header(value: Any) -> str:
    text = templates.as_text(value).strip()
    if _CONTROL.search(text):
        raise LookUpFailed("blocked")
    return text
