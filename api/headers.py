"""Headers: what proxies tell of the caller, CORS for the origins that are allowed, what keeps browsers careful."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import Flask, Response, g, request

import auth
from api import contract, proxies
from api.parts import Parts, parts

_WARN_BEFORE = timedelta(days=14)
_METHODS = "GET, POST, PUT, PATCH, DELETE"
_HEADERS = "Authorization, Content-Type, Idempotency-Key, X-Request-ID"
_EXPOSED = (
    "Idempotent-Replayed, Link, Location, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, "
    "X-ICMP-Key-Expires, X-Request-ID"
)
_CAREFUL = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
_POLICY = "default-src 'none'; frame-ancestors 'none'"
# The documentation page is the one place with scripts of its own.
_DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


def register(app: Flask) -> None:
    """Read the proxies' headers before each request, add ours after it."""
    wired: Parts = app.extensions["icmp"]
    trusted = proxies.TrustedProxies(app.wsgi_app, wired.settings.trusted_proxies)
    app.wsgi_app = trusted  # type: ignore[method-assign]

    @app.after_request
    def add(response: Response) -> Response:
        if not response.is_streamed and not response.get_data():
            del response.headers["Content-Type"]  # Flask calls nothing at all a page of HTML
        # Looked through once, and not for each of ours.
        chosen = {name.lower() for name, _ in response.headers}
        policy = _DOCS_POLICY if request.path.startswith("/docs") else _POLICY
        for name, value in (*_CAREFUL, ("Content-Security-Policy", policy)):
            if name.lower() not in chosen:
                response.headers.add(name, value)
        if request.is_secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        _warn_of_end(response)
        return _cors(response)


def _warn_of_end(response: Response) -> None:
    """A key that soon ends says so on each answer, while there is time to make another."""
    caller: auth.Caller | None = g.get("caller")
    if caller and caller.expires_at and caller.expires_at - datetime.now(UTC) < _WARN_BEFORE:
        response.headers["X-ICMP-Key-Expires"] = contract.shown(caller.expires_at)


def _cors(response: Response) -> Response:
    response.headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is None or origin not in parts().settings.allowed_origins:
        return response
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = _METHODS
        response.headers["Access-Control-Allow-Headers"] = _HEADERS
        response.headers["Access-Control-Max-Age"] = "600"
    return response
