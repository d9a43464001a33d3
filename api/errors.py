"""Every error a caller can see, in one table; nothing of a fault's own text leaves the house unless it is ours."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from flask import Flask, Response, current_app, g
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

import auth
import db
from api import metrics
from db import analytics
from db.cipher import Undecryptable
from db.rate_buckets import BucketsUnavailable
from nlp.errors import BadLookUp, BadSchema, BadTemplate, ModelUnavailable

log = logging.getLogger(__name__)
security = logging.getLogger("icmp.security")


class InvalidRequest(Exception):
    """The request is not valid"""

    def __init__(self, details: str, remediation: str = "", message: str = "") -> None:
        super().__init__(details)
        self.remediation = remediation
        self.message = message


class NoStages(Exception):
    """No stages found for this business"""


class ConversationCompleted(Exception):
    """The conversation is completed"""


class ConversationBusy(Exception):
    """The conversation has too many messages waiting"""

    retry_after_s = 1


class TurnInProgress(Exception):
    """The message is still being answered"""

    retry_after_s = 1


class TooManyTurns(Exception):
    """This process answers as many messages as it can"""

    retry_after_s = 1


class KeyReused(Exception):
    """The Idempotency-Key belongs to another message"""


class TurnFailed(Exception):
    """The message could not be answered"""


class LoginRefused(Exception):
    """The address or the password is wrong"""


class TooManyPasswords(Exception):
    """Too many passwords are being checked at once"""

    retry_after_s = 1


class TooManySums(Exception):
    """Too many analytics are being added up at once"""

    retry_after_s = 1


class Row(NamedTuple):
    """What a caller sees of an error; an empty `details` shows the exception's own text."""

    status: int
    error_code: str
    message: str
    remediation: str
    details: str = ""


TABLE: dict[type[Exception], Row] = {
    InvalidRequest: Row(400, "INVALID_REQUEST", "The request is not valid", "Correct the request and send it again"),
    BadSchema: Row(400, "INVALID_REQUEST", "The output_schema cannot be used", "Correct the schema as described"),
    BadLookUp: Row(400, "INVALID_REQUEST", "The data_retrieval cannot be used", "Correct the section as described"),
    BadTemplate: Row(400, "INVALID_REQUEST", "The template cannot be used", "Correct the text as described"),
    auth.BusinessNotNamed: Row(
        400, "INVALID_REQUEST", "The master key must name the business", "Send business_id in the query or the body"
    ),
    LoginRefused: Row(
        401, "UNAUTHORIZED", "The address or the password is wrong", "Send the email and the password of a login"
    ),
    auth.Unauthorized: Row(
        401, "UNAUTHORIZED", "A valid key is needed", "Send 'Authorization: Bearer <key>' with a key that is live"
    ),
    auth.Forbidden: Row(403, "FORBIDDEN", "The key does not allow this", "Use a key that has this right"),
    db.NotFound: Row(404, "NOT_FOUND", "There is no such object", "Check the ids that you sent", "Not found"),
    NoStages: Row(404, "NOT_FOUND", "No stages found for this business", "Create one with POST /api/v1/stages"),
    db.Conflict: Row(409, "CONFLICT", "This conflicts with what is stored", "Change what conflicts, or read it again"),
    ConversationCompleted: Row(
        409, "CONVERSATION_COMPLETED", "The conversation is completed",
        "Send it with a new Idempotency-Key and without conversation_id: that starts a new one",
    ),
    ConversationBusy: Row(
        409, "CONVERSATION_BUSY", "The conversation has too many messages waiting", "Send the message again later"
    ),
    TurnInProgress: Row(
        409, "TURN_IN_PROGRESS", "The message is still being answered", "Send the same request again for its reply"
    ),
    KeyReused: Row(
        422, "IDEMPOTENCY_KEY_REUSED", "The Idempotency-Key belongs to another message", "Use a new key per message"
    ),
    TooManyTurns: Row(
        503, "LLM_UNAVAILABLE", "Too many messages are being answered at once", "Try again after Retry-After seconds"
    ),
    TurnFailed: Row(
        500, "SERVER_ERROR", "The message could not be answered", "Send the message again with a new Idempotency-Key"
    ),
    TooManyPasswords: Row(
        503, "SERVER_ERROR", "Too many passwords are being checked at once", "Try again after Retry-After seconds"
    ),
    TooManySums: Row(
        503, "DATABASE_UNAVAILABLE", "Too many analytics are being added up at once",
        "Try again after Retry-After seconds",
    ),
    analytics.TooSlow: Row(
        503, "DATABASE_UNAVAILABLE", "The period cannot be added up in time", "Ask for a shorter period"
    ),
    db.DatabaseUnavailable: Row(
        503, "DATABASE_UNAVAILABLE", "The database cannot be used at the moment", "Try again shortly", "Temporary fault"
    ),
    BucketsUnavailable: Row(
        503, "DATABASE_UNAVAILABLE", "The limits cannot be checked at the moment", "Try again shortly",
        "The store of the limits cannot be reached, and logins are never unlimited",
    ),
    db.KeysUnavailable: Row(
        503, "SERVER_ERROR", "The key management service cannot be used at the moment", "Try again shortly",
        "Encrypted data cannot be opened or sealed now",
    ),
    ModelUnavailable: Row(
        503, "LLM_UNAVAILABLE", "The model cannot be used at the moment", "Try again after Retry-After seconds",
        "The message was kept; no reply could be made",
    ),
}  # fmt: skip
TIMED_OUT = TABLE[ModelUnavailable]._replace(
    status=504, error_code="LLM_TIMEOUT", message="The model did not answer in time"
)
FAULT = Row(500, "SERVER_ERROR", "Something went wrong on our side", "Try again; give support the request_id", "Fault")
UNREADABLE = Row(400, "INVALID_REQUEST", "The request cannot be read", "Send a well-formed request", "Unreadable")
HTTP: dict[int, Row] = {
    404: Row(404, "NOT_FOUND", "There is no such path", "See /docs for the paths", "Unknown path"),
    405: Row(405, "METHOD_NOT_ALLOWED", "The path does not take this method", "See the Allow header", "Wrong method"),
    413: Row(
        413, "PAYLOAD_TOO_LARGE", "The body is too large", "Send at most 1 MiB (4 MiB of events)", "Body over the limit"
    ),
    429: Row(
        429,
        "RATE_LIMITED",
        "Too many requests",
        "Wait for Retry-After seconds",
        "The bucket of this key or address is empty",
    ),
    415: Row(
        415, "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON", "Send 'Content-Type: application/json'", "Not JSON"
    ),
}
RETRY_AFTER = {503: "5", 504: "5"}


def row_of(error: Exception) -> Row:
    """The table's row for an exception; 500 for what is not in it."""
    if isinstance(error, ModelUnavailable) and error.timed_out:
        return TIMED_OUT
    if isinstance(error, HTTPException):
        code = error.code or 500
        return HTTP.get(code, FAULT if code >= 500 else UNREADABLE)
    return next((row for kind, row in TABLE.items() if isinstance(error, kind)), FAULT)


def body(row: Row, error: Exception) -> dict[str, Any]:
    """The one shape of every error."""
    # Only our own exception words itself: others have a `message` too, and it is not for callers.
    own = error if isinstance(error, InvalidRequest) else InvalidRequest("")
    return {
        "error_code": row.error_code,
        "message": own.message or row.message,
        "details": row.details or str(error) or row.message,
        "remediation": own.remediation or row.remediation,
        "request_id": g.get("request_id", ""),
    }


def told(error: Exception) -> dict[str, Any]:
    """The body for any exception; faults go to the log with their stack trace."""
    row = row_of(error)
    g.error_code = row.error_code
    if isinstance(error, Undecryptable):
        metrics.SECURITY_EVENTS.labels(kind=metrics.DECRYPT_FAILED).inc()
        security.error("stored data does not fit its keys", extra={"kind": metrics.DECRYPT_FAILED})
    if row is FAULT:
        log.error("fault", exc_info=error)
    elif row.status >= 500:
        log.warning("unavailable: %s %s", type(error).__name__, getattr(error, "reason", ""), exc_info=error.__cause__)
    return body(row, error)


def told_late(error: Exception) -> dict[str, Any]:
    """The body for an exception that comes when the headers are gone: the words say how long to wait."""
    shown, seconds = told(error), _retry_after(error)
    return shown | {"remediation": shown["remediation"].replace("Retry-After", seconds or "a few")}


def answer(error: Exception) -> Response:
    """The response for any exception."""
    row = row_of(error)
    text = current_app.json.dumps(told(error)) + "\n"
    response = Response(text, status=row.status, mimetype="application/json")
    if row.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    seconds = _retry_after(error)
    if seconds is not None:
        response.headers["Retry-After"] = seconds
    if isinstance(error, HTTPException) and row.status == 405:
        response.headers.extend(_allowed(error))
    return response


def _retry_after(error: Exception) -> str | None:
    asked = getattr(error, "retry_after_s", None)
    return RETRY_AFTER.get(row_of(error).status) if asked is None else str(max(1, round(asked)))


def _allowed(error: HTTPException) -> dict[str, str]:
    methods = getattr(error, "valid_methods", None)
    return {"Allow": ", ".join(sorted(methods))} if methods else {}


def register(app: Flask) -> None:
    """Every exception of a request ends here; a redirect of the router is none."""

    @app.errorhandler(Exception)
    def handle(error: Exception) -> Any:
        return error if isinstance(error, RequestRedirect) else answer(error)
