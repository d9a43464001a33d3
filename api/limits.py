"""Limits on traffic: who has which bucket, what happens when it is empty or cannot be reached, and the headers."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from flask import Flask, Response, current_app, g
from flask_limiter import Limit, Limiter, RateLimitExceeded

from api import bucket_stores, metrics, proxies
from api.settings import Settings
from db.rate_buckets import Buckets, BucketsUnavailable, PostgresBuckets, Size, Taken

log = logging.getLogger(__name__)

# Bucket sizes with the time in which an empty one fills: at most that many at once, and that rate for ever.
DEFAULT = "1000 per 10 second"
EVENTS = "500 per 5 second"
# What must not pass unlimited while the buckets cannot be reached: passwords would be free to guess.
_FAILS_CLOSED = {"login"}
_OUTAGE_LINE_SECONDS = 10


def register(app: Flask, settings: Settings, buckets: Buckets) -> dict[str, Size]:
    """Put the limits into `app.extensions["limits"]` by name, and their headers on responses. By limit, the sizes of
    those buckets in the database that belong to keys."""
    # Flask-Limiter logs the address of whoever is refused; the request's own line says 429 anyway.
    logging.getLogger("flask-limiter").setLevel(logging.WARNING)
    # Typed for addresses and numbers, but handed on as they are.
    options = cast(dict[str, str | int], {"buckets": buckets})
    limiter = Limiter(
        proxies.client_network,
        storage_uri=bucket_stores.URI,
        storage_options=options,
        strategy=bucket_stores.STRATEGY,
    )
    # Listed already, it hangs no hooks of its own on every request: they look for limits of views, and ours have none.
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
    rules: dict[str, tuple[str, Callable[[], str]]] = {
        bucket_stores.MESSAGES: (f"{settings.rate_limit_messages_per_minute} per 1 minute", _key),
        "login": (_login_rule(settings), proxies.client_network),
        "events": (EVENTS, proxies.client_network),
        "default": (DEFAULT, _key),
    }
    limits = {name: _limit(name, rule, key) for name, (rule, key) in rules.items()}
    app.extensions["limits"] = {name: _taking(limiter, name, limit) for name, limit in limits.items()}
    app.extensions["limits outage"] = _Outage()
    app.after_request(_add_headers)
    if not isinstance(buckets, PostgresBuckets):
        return {}
    return {name: bucket_stores.size(limits[name].limit) for name, (_, key) in rules.items() if key is _key}


def spend(name: str) -> None:
    """Take a token from the current caller's bucket; raises RateLimitExceeded, an HTTP 429, and for a login
    BucketsUnavailable."""
    spend_one: Callable[[], None] = current_app.extensions["limits"][name]
    try:
        spend_one()
    except RateLimitExceeded:
        metrics.RATE_LIMITED.labels(limit=name).inc()
        raise
    except BucketsUnavailable as error:
        metrics.LIMIT_STORE_FAILURES.inc()
        current_app.extensions["limits outage"].tell(error)
        if name in _FAILS_CLOSED:
            raise


def _taking(limiter: Limiter, name: str, limit: Any) -> Callable[[], None]:
    """What takes a token from the current caller's bucket of that name. Around a function, Flask-Limiter would look for
    its limits and read their rules anew in each request, which costs more than the token."""

    def take() -> None:
        if not limiter.limiter.hit(limit.limit, limit.key_func(), name):
            raise RateLimitExceeded(limit)

    return take


def _limit(name: str, rule: str, key: Callable[[], str]) -> Any:
    [limit] = Limit(rule, key_function=key, scope=name, shared=True)
    return limit


class _Outage:
    """One line in the log for many requests that could not be limited."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told_at = -math.inf
        self._untold = 0

    def tell(self, error: BucketsUnavailable) -> None:
        """Count a request, and log unless that was done a moment ago."""
        with self._lock:
            self._untold += 1
            now = time.monotonic()
            if now < self._told_at + _OUTAGE_LINE_SECONDS:
                return
            self._told_at, count, self._untold = now, self._untold, 0
        # The cause's kind only: its text names hosts.
        cause = type(error.__cause__).__name__ if error.__cause__ else "paused after a failure"
        log.error(
            "limits are off, logins are refused: the buckets cannot be reached", extra={"count": count, "cause": cause}
        )


def _login_rule(settings: Settings) -> str:
    """The size of the bucket with the time in which it fills."""
    burst, per_minute = settings.rate_limit_login_burst, settings.rate_limit_login_per_minute
    return f"{burst} per {math.ceil(60 * burst / per_minute)} second"


def _key() -> str:
    caller = g.get("caller")
    if caller is None:
        return proxies.client_network()
    return caller.key_id or caller.user_id or f"master {g.get('business_id', '')}"


def _add_headers(response: Response) -> Response:
    # A request that was refused before it was asked for its token has used it up all the same.
    taken = g.get("taken") or (g.get("taken_ahead") or (None, None))[1]
    if isinstance(taken, Taken):
        missing = taken.size.tokens - taken.remaining
        response.headers.add("RateLimit-Limit", f"{taken.size.tokens:.0f}")
        response.headers.add("RateLimit-Remaining", str(int(taken.remaining)))
        response.headers.add("RateLimit-Reset", str(math.ceil(missing * taken.size.seconds / taken.size.tokens)))
        if response.status_code == 429:
            response.headers["Retry-After"] = str(max(1, math.ceil(taken.retry_after_s)))
    return response
