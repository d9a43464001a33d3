"""Token buckets in Redis or Valkey: the same promises as those in PostgreSQL, by one script a take."""

from __future__ import annotations

import re
import threading
import time
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

import db
from db.rate_buckets import BucketsUnavailable, Size, Taken, hashed

_REMOTE = ("redis", "rediss", "valkey", "valkeys")
TIMEOUT_SECONDS = 0.25
PAUSE_SECONDS = 1.0
OWN_LIMIT_SECONDS = 1.0
_KEPT_LIMITS = 10_000
# Time is the server's, in whole microseconds, which a double holds exactly. The key lives until its bucket is full.
_TAKE = """
local capacity, per_second, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local held, at = tonumber(kept[1]) or capacity, tonumber(kept[2]) or now
held = math.min(capacity, held + math.max(0, now - at) / 1000000 * per_second)
local is_allowed = held >= cost
if is_allowed then held = held - cost end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', held), 'at', string.format('%.0f', math.max(now, at)))
redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - held) / per_second * 1000) + 1000)
return {is_allowed and 1 or 0, string.format('%.17g', held)}
"""


class RedisBuckets:
    """Buckets as hashes. Safe to share between threads and over fork: the client's pool notices a new process, and
    nothing is connected before the first take."""

    def __init__(self, uri: str, database: db.Database) -> None:
        self._client = client(uri)
        self._script = self._client.register_script(_TAKE)
        self._own_limits = _OwnLimits(database)
        self._pause = _Pause()

    def take(self, key: str, size: Size, *, cost: float = 1, limit_of: str | None = None) -> Taken:
        """Take tokens; see rate_buckets.Buckets. While the store is down, one caller a second finds out whether it
        still is, for two time-outs at most, and the others are told at once."""
        if self._pause.is_on():
            raise BucketsUnavailable
        if limit_of is not None:
            size = Size(self._own_limits.find(limit_of) or size.tokens, size.seconds)
        per_second = size.tokens / size.seconds
        try:
            answer = self._script([f"icmp:bucket:{hashed(key).hex()}"], [size.tokens, per_second, cost])
        except redis.RedisError as error:
            self._pause.begin()
            raise BucketsUnavailable from error
        self._pause.end()
        is_allowed, remaining = int(answer[0]) == 1, float(answer[1])
        return Taken(size, is_allowed, remaining, 0 if is_allowed else (cost - remaining) / per_second)


def is_address(uri: str) -> bool:
    """Whether a client can be made for it. The library itself takes a wrong path for database 0."""
    try:
        parts = urlsplit(uri)
        client(uri).connection_pool.make_connection()  # not connected: an unknown option in the query shows here
        is_local = parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1
        is_remote = parts.scheme in _REMOTE and bool(parts.hostname) and parts.port != 0
        return is_local or (is_remote and re.fullmatch(r"(/[0-9]{0,4})?", parts.path) is not None)
    except (ValueError, TypeError, redis.RedisError):
        return False


def client(uri: str) -> redis.Redis:
    """A client for an address that is_address: short time-outs, no retries. Raises ValueError."""
    return redis.Redis.from_url(
        uri.replace("valkey", "redis", 1) if uri.startswith("valkey") else uri,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        max_connections=1000,  # as many as threads may be; the client's own 100 would refuse, not wait
        decode_responses=True,
        # The older protocol, because with the newer one the client no longer notices that a server closed a
        # connection while it lay idle.
        protocol=2,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


class _Pause:
    """The time after a failure in which nobody tries again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends_at: float | None = None

    def is_on(self) -> bool:
        """Whether to leave the store alone. One caller finds the pause over; for the others a new one has begun."""
        if self._ends_at is None:
            return False
        with self._lock:
            now = time.monotonic()
            if self._ends_at is not None and now >= self._ends_at:
                self._ends_at = now + PAUSE_SECONDS
                return False
            return self._ends_at is not None

    def begin(self) -> None:
        """After a failure."""
        with self._lock:
            self._ends_at = time.monotonic() + PAUSE_SECONDS

    def end(self) -> None:
        """After a success."""
        if self._ends_at is not None:
            with self._lock:
                self._ends_at = None


class _OwnLimits:
    """What businesses have set for themselves, kept for a second: the busiest ask most often."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._kept: dict[str, tuple[float, int | None]] = {}

    def find(self, business_id: str) -> int | None:
        """Messages a minute, or None. Raises BucketsUnavailable."""
        until, limit = self._kept.get(business_id, (0.0, None))
        now = time.monotonic()
        if now < until:
            return limit
        try:
            rows = self._database.once(
                business_id,
                "SELECT (settings -> 'messages_per_minute')::integer FROM businesses WHERE business_id = %s",
                [business_id],
            )
        except db.DatabaseUnavailable as error:
            raise BucketsUnavailable from error
        if len(self._kept) >= _KEPT_LIMITS:
            self._kept.clear()
        limit = rows[0][0] if rows else None
        self._kept[business_id] = (now + OWN_LIMIT_SECONDS, limit)
        return limit
