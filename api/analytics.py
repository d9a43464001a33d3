"""Analytics: what happened in a business within a period."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint

import auth
import db
from api import contract, paging
from api.errors import InvalidRequest, TooManySums
from api.parts import parts, tenant
from db import analytics
from db.analytics import Period, Usage

routes = Blueprint("analytics", __name__)
DEFAULT_DAYS = 30
MAX_DAYS = 366
# Half of the connections that a process has by default: sums over a large tenant must not hold up its messages.
AT_ONCE = 4
IN_LINE = 16
WAIT_SECONDS = 1.0
_slots, _places = threading.BoundedSemaphore(AT_ONCE), threading.BoundedSemaphore(AT_ONCE + IN_LINE)
_PERIOD: dict[str, dict[str, Any]] = {
    "since": {**paging.TIME, "description": f"Inclusive; {DEFAULT_DAYS} days before `until` when left out."},
    "until": {**paging.TIME, "description": f"Exclusive; now when left out. At most {MAX_DAYS} days after `since`."},
}
_FILTERS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "maxLength": 500},
    "stage_name": {"type": "string", "maxLength": 200},
}


@routes.get("/analytics/summary")
@auth.require_business_api_key
@contract.contract(gives="analytics_summary", query=_PERIOD)
def get_summary(business_id: str, query: dict[str, Any]) -> dict[str, Any]:
    """Conversations, messages, turns by outcome, hand-offs, latency, tokens and cost of a period."""
    period = _period(query)
    with _sums(business_id) as conn:
        began = analytics.count_conversations(conn, business_id, period)
        sent = analytics.count_messages(conn, business_id, period)
        counts = analytics.count_turns(conn, business_id, period)
        usage = analytics.sum_usage(conn, business_id, period)
    started = sum(began.values())
    p50, p95 = counts.latencies_ms or (None, None)
    return {
        **vars(period),
        "conversations": {
            "started": started,
            **{name: began.get(name, 0) for name in ("active", "paused", "completed")},
        },
        "completion_rate": round(began.get("completed", 0) / started, 4) if started else None,
        "handoffs": counts.handoffs,
        "messages": {
            "total": sum(sent.values()),
            **{name: sent.get(name, 0) for name in ("user", "ai", "operator")},
        },
        "turns": {name: getattr(counts, name) for name in ("total", "done", "degraded", "failed", "open")},
        "latency_ms": {"p50": _rounded(p50), "p95": _rounded(p95)},
        "usage": _shown(usage),
    }


@routes.get("/analytics/stages")
@auth.require_business_api_key
@contract.contract(gives="analytics_stages", query=_PERIOD)
def get_stages(business_id: str, query: dict[str, Any]) -> dict[str, Any]:
    """The funnel of each stage: entered, completed, abandoned, turns, time in stage, most-missed field."""
    period = _period(query)
    with _sums(business_id) as conn:
        found = analytics.list_stages(conn, business_id, period, parts().settings.session_timeout_minutes)
    return {**vars(period), "stages": [_funnel(each) for each in found]}


@routes.get("/analytics/usage")
@auth.require_business_api_key
@contract.contract(gives="analytics_usage", query=_PERIOD | _FILTERS)
def get_usage(business_id: str, query: dict[str, Any]) -> dict[str, Any]:
    """Tokens and cost of a period: in all, by day, by model and by stage."""
    period = _period(query)
    filters = {name: query[name] for name in _FILTERS if name in query}
    with _sums(business_id) as conn:
        groups = analytics.list_usage(conn, business_id, period, filters)
    shown = {by: [_group(each, by) for each in groups if each.by == by] for by in ("total", "day", "model", "stage")}
    return {
        **vars(period),
        "total": shown["total"][0],
        "by_day": shown["day"],
        "by_model": shown["model"],
        "by_stage": shown["stage"],
    }


@contextmanager
def _sums(business_id: str) -> Iterator[db.Connection]:
    """A transaction for sums. A few wait a moment for a free slot; more are sent away at once, for each holds a
    thread."""
    with _held(_places, 0), _held(_slots, WAIT_SECONDS), tenant(business_id) as conn, analytics.bounded(conn):
        yield conn


@contextmanager
def _held(slots: threading.BoundedSemaphore, wait_seconds: float) -> Iterator[None]:
    if not slots.acquire(timeout=wait_seconds):
        raise TooManySums
    try:
        yield
    finally:
        slots.release()


def _period(query: dict[str, Any]) -> Period:
    until = contract.moment(query["until"]) if "until" in query else datetime.now(UTC)
    try:
        since = contract.moment(query["since"]) if "since" in query else until - timedelta(days=DEFAULT_DAYS)
    except OverflowError:
        raise InvalidRequest("until: too early for a period to end there", "Send a later until") from None
    if since >= until:
        raise InvalidRequest("since: not before until", "Send a since that lies before until (default: now)")
    if until - since > timedelta(days=MAX_DAYS):
        raise InvalidRequest(
            f"since, until: more than {MAX_DAYS} days apart", f"Ask for at most {MAX_DAYS} days at once"
        )
    return Period(since, until)


def _funnel(stage: analytics.StageFunnel) -> dict[str, Any]:
    names = ("stage_id", "stage_name", "entered", "completed", "abandoned", "open", "turns", "degraded_turns")
    missed = {"field_name": stage.most_missed_field, "turns": stage.most_missed_turns}
    return {
        **{name: getattr(stage, name) for name in names},
        "seconds_in_stage": _rounded(stage.seconds_in_stage),
        "most_missed_field": missed if stage.most_missed_field is not None else None,
    }


def _group(group: analytics.UsageGroup, by: str) -> dict[str, Any]:
    name = {"total": {}, "stage": {"stage_name": group.name}}.get(by, {by: group.name})
    return {**name, "steps": group.steps, **_shown(group.usage)}


def _shown(usage: Usage) -> dict[str, Any]:
    shown: dict[str, Any] = contract.shown(usage)
    return shown


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 1)
