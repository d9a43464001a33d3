"""Limits on traffic: Flask-Limiter in front, token buckets in PostgreSQL behind it."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Callable
from typing import Any, cast

from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter
from limits import RateLimitItem, WindowStats
from limits.storage import Storage
from limits.strategies import STRATEGIES, RateLimiter

import db
from api.parts import parts
from db import businesses, rate_buckets

log = logging.getLogger(__name__)

# Bucket sizes with the time in which an empty one fills: at most that many at once, and that rate for ever.
DEFAULT = "1000 per 10 second"
EVENTS = "500 per 5 second"
# What must not pass unlimited while the buckets cannot be reached: passwords would be free to guess.
_FAILS_CLOSED = {"login"}
_NO_COUNTERS = "buckets have no counters and no windows"


class PostgresBuckets(Storage):
    """The place of the buckets, as `limits` finds it; only TokenBucket uses it."""

    STORAGE_SCHEME = ["icmp"]  # noqa: RUF012 — the base class wants an instance's list

    def __init__(self, uri: str, database: Any = None, **options: Any) -> None:
        super().__init__(uri, **options)
        self.database: db.Database = database

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the storage raises when it is down."""
        return db.DatabaseUnavailable

    def check(self) -> bool:
        """Whether the buckets can be reached."""
        try:
            with self.database.transaction(None):
                return True
        except db.DatabaseUnavailable:
            return False

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Buckets are taken from by TokenBucket alone."""
        raise NotImplementedError(_NO_COUNTERS)

    def get(self, key: str) -> int:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)

    def get_expiry(self, key: str) -> float:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)

    def reset(self) -> int | None:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)

    def clear(self, key: str) -> None:
        """As above."""
        raise NotImplementedError(_NO_COUNTERS)


class TokenBucket(RateLimiter):
    """A limit of N per T is a bucket of N tokens that fills in T."""

    storage: PostgresBuckets

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take a token; what is left stands in `g` for the headers."""
        with self.storage.database.transaction(None) as conn:
            taken = rate_buckets.take(
                conn,
                "/".join(identifiers),
                capacity=item.amount,
                per_second=item.amount / item.get_expiry(),
                cost=cost,
            )
        g.rate_limit = (item.amount, item.get_expiry(), taken)
        return taken.is_allowed

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether a token is there."""
        raise NotImplementedError("a test is out of date when it is answered: take a token")

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """There are no windows."""
        raise NotImplementedError(_NO_COUNTERS)


cast(dict[str, type[RateLimiter]], STRATEGIES)["token-bucket"] = TokenBucket


def register(app: Flask, database: db.Database, messages_per_minute: int) -> None:
    """Put the limits into `app.extensions["limits"]` by name, and their headers on responses."""
    # Typed for addresses and numbers, but handed on as they are.
    options = cast(dict[str, str | int], {"database": database})
    limiter = Limiter(_address, app=app, storage_uri="icmp://", storage_options=options, strategy="token-bucket")

    def rule() -> str:
        return f"{_own_limit(database) or messages_per_minute} per 1 minute"

    app.extensions["limits"] = {
        "messages": limiter.shared_limit(rule, scope="messages", key_func=_key)(_passed),
        "login": limiter.shared_limit(_login_rule, scope="login", key_func=_address)(_passed_login),
        "events": limiter.shared_limit(EVENTS, scope="events", key_func=_address)(_passed_events),
        "default": limiter.shared_limit(DEFAULT, scope="default", key_func=_key)(_passed_default),
    }
    app.after_request(_add_headers)


def spend(name: str) -> None:
    """Take a token from the current caller's bucket; raises RateLimitExceeded, an HTTP 429, and for a login
    DatabaseUnavailable."""
    spend_one: Callable[[], None] = current_app.extensions["limits"][name]
    try:
        spend_one()
    except db.DatabaseUnavailable:
        if name in _FAILS_CLOSED:
            raise
        log.warning("rate limits are off: the buckets cannot be reached")


def _passed() -> None:
    """Runs when the messages bucket had a token."""


def _passed_login() -> None:
    """Runs when the login bucket had a token."""


def _passed_events() -> None:
    """Runs when the events bucket had a token."""


def _passed_default() -> None:
    """Runs when the default bucket had a token."""


def _login_rule() -> str:
    """The size of the bucket with the time in which it fills."""
    settings = parts().settings
    burst, per_minute = settings.rate_limit_login_burst, settings.rate_limit_login_per_minute
    return f"{burst} per {math.ceil(60 * burst / per_minute)} second"


def _own_limit(database: db.Database) -> int | None:
    """What the business has set for itself."""
    business_id = g.get("business_id")
    if business_id is None:
        return None
    with database.transaction(business_id) as conn:
        limit = businesses.find_setting(conn, business_id, "messages_per_minute")
    return limit if isinstance(limit, int) else None


def _key() -> str:
    caller = g.get("caller")
    if caller is None:
        return _address()
    return caller.key_id or caller.user_id or f"master {g.get('business_id', '')}"


def _address() -> str:
    """The client's address; IPv6 by /64, which is what one customer gets."""
    address = ipaddress.ip_address(request.remote_addr or "0.0.0.0")  # noqa: S104 — a name for nobody
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def _add_headers(response: Response) -> Response:
    if "rate_limit" in g:
        size, seconds, taken = g.rate_limit
        response.headers["RateLimit-Limit"] = str(size)
        response.headers["RateLimit-Remaining"] = str(int(taken.remaining))
        response.headers["RateLimit-Reset"] = str(math.ceil((size - taken.remaining) * seconds / size))
        if response.status_code == 429:
            response.headers["Retry-After"] = str(max(1, math.ceil(taken.retry_after_s)))
    return response
