"""JSON logs: one line a record, with the ids of the request, and nothing secret in them."""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, g, has_request_context, request
from pythonjsonlogger.json import JsonFormatter

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# None of these can reach beyond the JSON string that it stands in.
_SECRETS = re.compile(
    r"icmp_[a-z]{3}_[A-Za-z0-9_]{8,}|sk-[A-Za-z0-9_-]{8,}|(?i:bearer)\s+[\w.~+/=-]+"
    r'|://[^/\s:@"\\]*:[^/\s@"\\]+@'
)
# gunicorn quotes in these what the caller sent.
_QUOTING = re.compile(r"(Invalid request from ip=\S+?|Error handling request)[: ] *.*", re.DOTALL)
_CHAIN = 10  # exceptions that led to one another
_OURS = {"app", "auth", "api", "db", "nlp", "icmp"}
_OF_REQUEST = ("request_id", "business_id", "user_id", "conversation_id", "error_code")
log = logging.getLogger("icmp.request")


class Formatter(JsonFormatter):
    """`timestamp, level, source, message`, the request's ids and the duration; keys never."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Build the line's fields in their order."""
        super().add_fields(log_data, record, message_dict)
        message, quotes = _QUOTING.subn(r"\1", log_data.pop("message", ""))
        # gunicorn tells in an exception's text why it cannot start; a request's exceptions may quote its body.
        if record.exc_info and (quotes or not record.name.startswith("gunicorn")):
            log_data["exc_info"] = _without_texts(record.exc_info[1])
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


def _without_texts(error: BaseException | None) -> str:
    """Where it happened, and the kind of each exception on the way there, the last one at the end. Their texts stay
    out: drivers and parsers quote the values that they stumble over."""
    told: list[str] = []
    while error is not None and len(told) < _CHAIN:
        where = "".join(traceback.format_tb(error.__traceback__))
        told.insert(
            0, f"Traceback (most recent call last):\n{where}{type(error).__module__}.{type(error).__qualname__}"
        )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n".join(told)


def configure(level: str) -> None:
    """Send everything logged in this process to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter())
    handler.addFilter(_is_careful)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _is_careful(record: logging.LogRecord) -> bool:
    """Libraries tell of paths, headers and whole prompts when they are debugged: their DEBUG stays off for ever."""
    return record.levelno > logging.DEBUG or record.name.partition(".")[0] in _OURS


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
