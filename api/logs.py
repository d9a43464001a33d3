"""JSON logs: one line a record, with the ids of the request, and nothing secret in them."""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, g, has_request_context, request
from pythonjsonlogger.json import JsonFormatter

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECRETS = re.compile(r"icmp_[a-z]{3}_[A-Za-z0-9_]{8,}|sk-[A-Za-z0-9_-]{8,}|(?i:bearer)\s+\S+|://[^/\s:@]+:[^/\s@]+@")
_OF_REQUEST = ("request_id", "business_id", "user_id", "conversation_id", "error_code")
log = logging.getLogger("icmp.request")


class Formatter(JsonFormatter):
    """`timestamp, level, source, message`, the request's ids and the duration; keys never."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Build the line's fields in their order."""
        super().add_fields(log_data, record, message_dict)
        message = log_data.pop("message", "")
        first = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "source": record.name,
            "message": message,
        }
        if has_request_context():
            first |= {name: g.get(name) for name in _OF_REQUEST}
        rest = dict(log_data)
        log_data.clear()
        log_data |= first | rest

    def format(self, record: logging.LogRecord) -> str:
        """The line; a second net catches keys in whatever was logged."""
        return _SECRETS.sub("[removed]", super().format(record))


def configure(level: str) -> None:
    """Send everything logged in this process to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def register(app: Flask) -> None:
    """Give each request an id and a line in the log."""

    @app.before_request
    def begin() -> None:
        sent = request.headers.get("X-Request-ID", "")
        g.request_id = sent if _WELL_FORMED.fullmatch(sent) else str(uuid.uuid4())
        g.started = time.monotonic()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        rule = request.url_rule.rule if request.url_rule else "unknown"
        duration_ms = round((time.monotonic() - g.started) * 1000, 1)
        quiet = rule in {"/healthz", "/readyz"} and response.status_code < 400
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra={
                "method": request.method,
                "route": rule,
                "status": response.status_code,
                "duration_ms": duration_ms,
            },
        )
        return response
