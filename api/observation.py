"""What is seen of every request: its id, its line in the log, its numbers and its span."""

from __future__ import annotations

import functools
import logging
import re
import time
import uuid
from typing import Any, cast

from flask import Flask, Request, Response, g, request

from api import arrival, logs, metrics
from api.traces import Traces

_WELL_FORMED = re.compile(arrival.ID)
_QUIET = {"/healthz", "/readyz", "/metrics"}
log = logging.getLogger("icmp.request")


def register(app: Flask, traces: Traces) -> None:
    """Give each request an id, and see to what it leaves behind."""

    @app.before_request
    def begin() -> None:
        # Each use of `g` or `request` is three calls: they are asked for the objects behind them.
        known, asked = g._get_current_object(), _asked()
        sent = asked.headers.get("X-Request-ID", "")
        known.request_id = sent if _WELL_FORMED.fullmatch(sent) else str(uuid.uuid4())
        known.started = time.monotonic()
        known.span = traces.begin(_method(asked), _route(asked), asked.headers)
        if known.span is not None:
            known.trace_id = known.span.trace_id

    @app.after_request
    def end(response: Response) -> Response:
        # g is gone when the last piece of a stream has left: what it holds by then is asked for through this object.
        known, asked = g._get_current_object(), _asked()
        response.headers.add("X-Request-ID", known.request_id)
        finish = functools.partial(_finish, known, _method(asked), _route(asked), response.status_code)
        if response.is_streamed:
            response.call_on_close(finish)
        else:
            finish()
        return response

    @app.teardown_request
    def leave(_error: BaseException | None) -> None:
        if g.get("span") is not None:
            g.span.leave()


def _asked() -> Request:
    return cast(Any, request)._get_current_object()  # type: ignore[no-any-return]


def _method(asked: Request) -> str:
    """The method, if it is one: a caller may send any word."""
    return asked.method if asked.method in metrics.METHODS else metrics.OTHER


def _route(asked: Request) -> str:
    """The rule that matched; a path could hold anything."""
    return asked.url_rule.rule if asked.url_rule else "none"


def _finish(known: Any, method: str, route: str, status: int) -> None:
    seconds = time.monotonic() - known.started
    metrics.count_request(method, route, status, seconds)
    log.log(
        logging.DEBUG if route in _QUIET and status < 400 else logging.INFO,
        "request",
        extra={
            **logs.ids(known),
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
        },
    )
    if known.get("span") is not None:
        known.span.end(status, logs.ids(known))
