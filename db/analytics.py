"""Analytics: what happened in one business within a period, added up from its conversations, messages, turns and steps.
docs/analytics.md says what each number counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2 import errors

from db import Connection, allow_seconds, execute, fetch_all
from db.paging import conditions

STATEMENT_SECONDS = 15.0
FILTERS = {"model": "model = %(model)s", "stage_name": "stage_name = %(stage_name)s"}


class TooSlow(Exception):
    """The period cannot be added up in time"""


@dataclass(frozen=True)
class Period:
    """From `since`, inclusive, to `until`, exclusive."""

    since: datetime
    until: datetime


@dataclass(frozen=True)
class Usage:
    """`cost_usd` is None as soon as one cost is unknown: a sum without it would be too low. `known_cost_usd` is the sum
    of the others, `unknown_costs` how many are missing from it."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: Any
    known_cost_usd: Any
    unknown_costs: int


@dataclass(frozen=True)
class Counts:
    """Turns by outcome; `handoffs` counts conversations; `latencies_ms`: p50 and p95, None without a done turn."""

    total: int
    done: int
    degraded: int
    failed: int
    open: int
    handoffs: int
    latencies_ms: list[float] | None


@dataclass(frozen=True)
class StageFunnel:
    """One stage: its visits by how they ended (entered = completed + abandoned + open), its turns, the required field
    that was missing after most of them. `seconds_in_stage` is the median of the visits."""

    stage_id: str
    stage_name: str | None
    entered: int
    completed: int
    abandoned: int
    open: int
    turns: int
    degraded_turns: int
    seconds_in_stage: float | None
    most_missed_field: str | None
    most_missed_turns: int


@dataclass(frozen=True)
class UsageGroup:
    """The steps of one day, model or stage; all three are None for the whole period."""

    by: str
    name: str | None
    steps: int
    usage: Usage


@contextmanager
def bounded(conn: Connection) -> Iterator[None]:
    """Makes the transaction one for reading, with the time and memory that sums may take; raises TooSlow."""
    allow_seconds(conn, STATEMENT_SECONDS)
    execute(
        conn,
        # Compiling a query costs more than it saves here; the sorts of a large tenant stay in memory.
        "SELECT set_config('transaction_read_only', 'on', true), set_config('jit', 'off', true),"
        " set_config('work_mem', '32MB', true)",
    )
    try:
        yield
    except errors.QueryCanceled as error:
        raise TooSlow("since, until: there is too much between them") from error


def count_conversations(conn: Connection, business_id: str, period: Period) -> dict[str, int]:
    """The conversations that began in the period, by their present status."""
    return dict(fetch_all(conn, _CONVERSATIONS, _values(business_id, period)))


def count_messages(conn: Connection, business_id: str, period: Period) -> dict[str, int]:
    """The messages of the period, by sender_type."""
    return dict(fetch_all(conn, _MESSAGES, _values(business_id, period)))


def count_turns(conn: Connection, business_id: str, period: Period) -> Counts:
    """The turns that began in the period."""
    [row] = fetch_all(conn, _TURNS, _values(business_id, period))
    return Counts(*row)


def sum_usage(conn: Connection, business_id: str, period: Period) -> Usage:
    """Tokens and cost of all steps stored in the period."""
    [row] = fetch_all(conn, _TOTAL_USAGE, _values(business_id, period))
    return _usage(*row)


def list_stages(conn: Connection, business_id: str, period: Period, silence_minutes: int) -> list[StageFunnel]:
    """The funnel of every stage that had a turn in the period, most entered first. A conversation that was silent for
    `silence_minutes` at the end of the period has abandoned its stage."""
    values = _values(business_id, period) | {"silence_minutes": silence_minutes}
    return [StageFunnel(*row) for row in fetch_all(conn, _STAGES, values)]


def list_usage(conn: Connection, business_id: str, period: Period, filters: Mapping[str, str]) -> list[UsageGroup]:
    """Tokens and cost of the steps stored in the period: in all, by day (UTC), by model and by stage. `filters` names
    keys of FILTERS."""
    where = conditions(FILTERS, filters)
    rows = fetch_all(conn, _USAGE.format(where=where), _values(business_id, period) | dict(filters))
    return [UsageGroup(by, name, steps, _usage(*sums)) for by, name, steps, *sums in rows]


def _values(business_id: str, period: Period) -> dict[str, Any]:
    return {"business_id": business_id, "since": period.since, "until": period.until}


def _usage(prompt_tokens: int, completion_tokens: int, known_cost: Any, unknown: int) -> Usage:
    return Usage(prompt_tokens, completion_tokens, None if unknown else known_cost, known_cost, unknown)


_CONVERSATIONS = """
    SELECT status, count(*) FROM conversations
    WHERE business_id = %(business_id)s AND start_time >= %(since)s AND start_time < %(until)s GROUP BY status
"""
_MESSAGES = """
    SELECT sender_type, count(*) FROM messages
    WHERE business_id = %(business_id)s AND created_at >= %(since)s AND created_at < %(until)s GROUP BY sender_type
"""
_TURNS = """
    SELECT count(*), count(*) FILTER (WHERE state = 'done' AND NOT degraded),
           count(*) FILTER (WHERE state = 'done' AND degraded),
           count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'open'),
           count(DISTINCT conversation_id) FILTER (WHERE conversation_status = 'paused'),
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY (timings_ms ->> 'total')::double precision)
               FILTER (WHERE state = 'done')
    FROM turns WHERE business_id = %(business_id)s AND created_at >= %(since)s AND created_at < %(until)s
"""
# A visit is a run of turns from one that entered a stage to the next one that did. Turns that entered nothing before
# the first such one belong to a visit that began before the period: they count as turns only.
_STAGES = """
    WITH ended AS (
        SELECT conversation_id, number, stage_id, stage_name, entered_stage, missing_fields, conversation_status,
               degraded, created_at, coalesce(finished_at, created_at) AS ended_at
        FROM turns
        WHERE business_id = %(business_id)s AND created_at >= %(since)s AND created_at < %(until)s
          AND state = 'done' AND stage_id IS NOT NULL
    ), numbered AS (
        SELECT conversation_id, stage_id, entered_stage, created_at, ended_at,
               conversation_status IN ('paused', 'completed') OR (missing_fields = '[]' AND NOT degraded) AS reached,
               count(*) FILTER (WHERE entered_stage) OVER (PARTITION BY conversation_id ORDER BY number) AS visit
        FROM ended
    ), visits AS (
        SELECT stage_id, coalesce(bool_or(reached), false) AS completed,
               visit < max(visit) OVER (PARTITION BY conversation_id)
               OR max(ended_at) < least(%(until)s, clock_timestamp()) - make_interval(mins => %(silence_minutes)s)
                   AS is_over,
               extract(epoch FROM max(ended_at) - min(created_at)) AS seconds
        FROM numbered GROUP BY conversation_id, visit, stage_id HAVING bool_or(entered_stage)
    ), funnel AS (
        SELECT stage_id, count(*) AS entered, count(*) FILTER (WHERE completed) AS completed,
               count(*) FILTER (WHERE NOT completed AND is_over) AS abandoned,
               count(*) FILTER (WHERE NOT completed AND NOT is_over) AS open,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS seconds
        FROM visits GROUP BY stage_id
    ), missed AS (
        SELECT DISTINCT ON (stage_id) stage_id, field, turns FROM (
            SELECT stage_id, field, count(*) AS turns
            FROM ended CROSS JOIN jsonb_array_elements_text(missing_fields) AS field GROUP BY stage_id, field) counted
        ORDER BY stage_id, turns DESC, field
    ), totals AS (
        SELECT stage_id, max(stage_name) AS stage_name, count(*) AS turns,
               count(*) FILTER (WHERE degraded) AS degraded_turns
        FROM ended GROUP BY stage_id
    )
    SELECT stage_id, coalesce(stages.stage_name, totals.stage_name), coalesce(entered, 0), coalesce(completed, 0),
           coalesce(abandoned, 0), coalesce(open, 0), totals.turns, degraded_turns, seconds, field,
           coalesce(missed.turns, 0)
    FROM totals LEFT JOIN funnel USING (stage_id) LEFT JOIN missed USING (stage_id)
    LEFT JOIN (SELECT stage_id, stage_name FROM stages WHERE business_id = %(business_id)s) stages USING (stage_id)
    ORDER BY coalesce(entered, 0) DESC, totals.turns DESC, 2, stage_id
"""
_SUMS = """
    coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cost_usd), 0),
    count(*) FILTER (WHERE cost_usd IS NULL)
"""
# A step without a model asked none: it was skipped, or looked something up.
_IN_PERIOD = "created_at >= %(since)s AND created_at < %(until)s AND model IS NOT NULL"
_TOTAL_USAGE = f"SELECT {_SUMS} FROM turn_steps WHERE business_id = %(business_id)s AND {_IN_PERIOD}"
_USAGE = f"""
    SELECT CASE grouping(day, model, stage_name) WHEN 3 THEN 'day' WHEN 5 THEN 'model' WHEN 6 THEN 'stage'
               ELSE 'total' END AS by,
           coalesce(day::text, model, stage_name), count(*), {_SUMS}
    FROM (SELECT created_at::date AS day, model, stage_name, prompt_tokens, completion_tokens, cost_usd
          FROM turn_steps WHERE business_id = %(business_id)s AND {_IN_PERIOD}{{where}}) steps
    GROUP BY GROUPING SETS ((), (day), (model), (stage_name)) ORDER BY 1, 2
"""
