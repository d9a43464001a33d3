"""What is counted and measured, by the names that Prometheus sees, and the few functions that count."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from db.turns import Step
from nlp import prices

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45, 90)
# Labels come from callers and tenants: what is not known by name is counted under one word.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"

REQUESTS = Counter("icmp_requests_total", "HTTP requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram("icmp_request_seconds", "Time to answer a request.", ["route"], buckets=SECONDS)
TURNS = Counter("icmp_turns_total", "Turns ended: done, degraded or failed.", ["outcome"])
TURN_SECONDS = Histogram("icmp_turn_seconds", "Time from a message accepted to its reply.", buckets=SECONDS)
TURN_WAIT_SECONDS = Histogram("icmp_turn_wait_seconds", "Time a message waited for its turn.", buckets=SECONDS)
TURNS_TAKEN_OVER = Counter("icmp_turns_taken_over_total", "Turns resumed after their worker was lost.")
TURNS_IN_FLIGHT = Gauge("icmp_turns_in_flight", "Turns running now.", multiprocess_mode="livesum")
STEPS = Counter("icmp_steps_total", "Steps of turns.", ["kind", "model", "outcome"])
STEP_SECONDS = Histogram("icmp_step_seconds", "Time of a step.", ["kind"], buckets=SECONDS)
TOKENS = Counter("icmp_tokens_total", "Tokens charged by models.", ["model", "direction"])
COST_USD = Counter("icmp_cost_usd_total", "Known cost of model calls.", ["model"])
# Live: a breaker ends with its process, and must not look open for ever.
BREAKER_OPEN = Gauge(
    "icmp_breaker_open", "1 while calls to a model are not tried.", ["model"], multiprocess_mode="livemax"
)
POOL_CONNECTIONS = Gauge("icmp_pool_connections", "Database connections.", ["state"], multiprocess_mode="livesum")
POOL_WAIT_SECONDS = Histogram("icmp_pool_wait_seconds", "Time to get a database connection.", buckets=SECONDS)
RATE_LIMITED = Counter("icmp_rate_limited_total", "Requests refused by a limit.", ["limit"])
LIMIT_STORE_FAILURES = Counter("icmp_limit_store_failures_total", "Times the bucket store could not be asked.")
SECURITY_EVENTS = Counter("icmp_security_events_total", "Anomalies noticed.", ["kind"])
DECRYPT_FAILED = "decrypt_failed"  # one of its kinds
LOGS_DROPPED = Counter("icmp_logs_dropped_total", "Log lines that never reached LOG_HTTP_URL.")
BUILD_INFO = Gauge("icmp_build_info", "1, by version.", ["version", "python"], multiprocess_mode="livemax")

_named_models: set[str] = set()


def describe(version: str, default_model: str) -> None:
    """Tell the release, and which model the settings name: it is counted by its own name."""
    BUILD_INFO.labels(version, platform.python_version()).set(1)
    _named_models.add(default_model)


def model_label(model: str | None) -> str:
    """A model's name if the settings or prices.json know it, `none` for a step without one, else `other`."""
    if not model:
        return "none"
    return model if model in _named_models else prices.known_name(model) or OTHER


@functools.cache
def _child(metric: Any, *labels: str | int) -> Any:
    """A metric under its labels, which are all of small sets; the metric itself looks them up under a lock."""
    return metric.labels(*labels)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """One request answered; `method` is one of METHODS or OTHER, `route` the rule, never the path that was sent."""
    _child(REQUESTS, method, route, status).inc()
    _child(REQUEST_SECONDS, route).observe(seconds)


def count_turn(outcome: str, seconds: float) -> None:
    """One turn ended: `done`, `degraded` or `failed`, so long after its message was accepted."""
    _child(TURNS, outcome).inc()
    TURN_SECONDS.observe(seconds)


def count_steps(steps: Iterable[Step]) -> None:
    """Rows of the ledger, each to be counted once: when it is written. An unknown cost is not counted."""
    spent: dict[str, list[Step]] = {}
    for step in steps:
        model = model_label(step.model)
        _child(STEPS, step.kind, model, step.outcome).inc()
        if step.outcome == "skipped":
            continue
        _child(STEP_SECONDS, step.kind).observe(step.latency_ms / 1000)
        if step.model is not None:
            spent.setdefault(model, []).append(step)
    # Each increment is a write to memory that processes share.
    for model, asked in spent.items():
        _child(TOKENS, model, "prompt").inc(sum(step.prompt_tokens for step in asked))
        _child(TOKENS, model, "completion").inc(sum(step.completion_tokens for step in asked))
        _child(COST_USD, model).inc(sum(float(step.cost_usd or 0) for step in asked))


class PoolObserver:
    """Hears from the database's pool."""

    usage: Callable[[], tuple[int, int]] = staticmethod(lambda: (0, 0))  # of this process

    def waited(self, seconds: float) -> None:
        """Somebody got a connection, or none, after so long."""
        POOL_WAIT_SECONDS.observe(seconds)

    def watch(self, usage: Callable[[], tuple[int, int]]) -> None:
        """Who tells how many connections are lent out, and how many stand by."""
        PoolObserver.usage = staticmethod(usage)


def sample() -> None:
    """Show what changes several times a request, and is only ever looked at now and then; called each second and when
    somebody looks."""
    for state, number in zip(("busy", "idle"), PoolObserver.usage(), strict=True):
        POOL_CONNECTIONS.labels(state).set(number)
