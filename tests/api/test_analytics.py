"""Analytics: every number against rows counted by hand; a period's edges; what is unknown stays unknown."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from flask import Flask

from api import analytics as view
from api.settings import Settings
from db import analytics
from tests.api import shop
from tests.api.ledgers import Ledger, Sql
from tests.api.shop import finds, picks, says
from tests.conftest import Client
from tests.nlp.model_server import fails

PERIOD = "since=2026-01-01T00:00:00Z&until=2026-01-31T00:00:00Z"


@pytest.fixture
def ledger(sql: Sql, alice: Client) -> Ledger:
    return Ledger(sql, alice)


def _read(client: Client, what: str, query: str = PERIOD) -> dict[str, Any]:
    answer = client.get(f"/api/v1/analytics/{what}?{query}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def _stage(client: Client, name: str, query: str = PERIOD) -> dict[str, Any]:
    [found] = [each for each in _read(client, "stages", query)["stages"] if each["stage_name"] == name]
    return dict(found)


def _outcomes(stage: dict[str, Any]) -> tuple[int, ...]:
    return tuple(stage[name] for name in ("entered", "completed", "abandoned", "open"))


def test_a_message_that_was_answered_is_in_every_sum(alice: Client) -> None:
    shop.furnish(alice, shop.ORDER_STATUS)
    assert shop.write(alice, "Where is order 4411?").status == 200
    summary = _read(alice, "summary", "")
    assert summary["conversations"] == {"started": 1, "active": 1, "paused": 0, "completed": 0}
    assert summary["completion_rate"] == 0
    assert summary["messages"] == {"total": 2, "user": 1, "ai": 1, "operator": 0}
    assert summary["turns"] == {"total": 1, "done": 1, "degraded": 0, "failed": 0, "open": 0}
    assert summary["latency_ms"]["p95"] == summary["latency_ms"]["p50"] > 0
    usage = _read(alice, "usage", "")
    assert usage["total"]["prompt_tokens"] == summary["usage"]["prompt_tokens"] > 0
    assert [each["stage_name"] for each in usage["by_stage"]] == ["order_status"]
    assert [each["model"] for each in usage["by_model"]] == ["icmp-offline"]
    assert _stage(alice, "order_status", "")["turns"] == 1


def test_the_engine_writes_down_what_the_funnel_needs(settings: Settings, serve: Callable[[Flask], int]) -> None:
    people = shop.stage("people", stage_type="handoff", fixed_text="Somebody will be with you.")
    with shop.thinking(settings, serve) as thinker:
        client, user_id = thinker.shop(shop.ORDER_STATUS, people), str(uuid.uuid4())
        for number, stage in (
            (None, "order_status"),
            (None, "order_status"),
            ("4411", "order_status"),
            (None, "people"),
        ):
            found = finds(order_number=number)
            thinker.script(stage_selection=picks(stage), data_extraction=found, response_generation=says("Well."))
            assert shop.write(client, "Where is it?", user_id).status == 200
        thinker.script(stage_selection=fails(500), data_extraction=fails(500), response_generation=fails(500))
        assert shop.write(client, "And mine?").status == 503
        status, summary = _stage(client, "order_status", ""), _read(client, "summary", "")
    assert (_outcomes(status), status["turns"]) == ((1, 1, 0, 0), 3)
    assert status["most_missed_field"] == {"field_name": "order_number", "turns": 2}
    assert _outcomes(_stage(client, "people", "")) == (1, 1, 0, 0)
    assert summary["handoffs"] == summary["conversations"]["paused"] == 1
    assert summary["turns"] == {"total": 5, "done": 4, "degraded": 0, "failed": 1, "open": 0}


def test_conversations_messages_and_turns_are_counted_from_since_to_before_until(ledger: Ledger) -> None:
    done = ledger.conversation("completed", "2026-01-01T00:00:00Z")
    ledger.conversation("paused")
    ledger.conversation("active", "2026-01-31T00:00:00Z")
    ledger.conversation("active", "2025-12-31T23:59:59Z")
    for number, at in enumerate(("2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-01-31T00:00:00Z"), start=1):
        ledger.turn(done, number, "first", at=at)
        ledger.message(done, "user", at)
    ledger.message(done, "operator", "2026-01-30T23:59:59Z")
    summary = _read(ledger.client, "summary")
    assert (summary["since"], summary["until"]) == ("2026-01-01T00:00:00.000000Z", "2026-01-31T00:00:00.000000Z")
    assert summary["conversations"] == {"started": 2, "active": 0, "paused": 1, "completed": 1}
    assert summary["completion_rate"] == 0.5
    assert summary["turns"]["total"] == 1
    assert summary["messages"] == {"total": 2, "user": 1, "ai": 0, "operator": 1}


def test_turns_by_outcome_with_their_latency_and_handoffs(ledger: Ledger) -> None:
    first, second = ledger.conversation(), ledger.conversation()
    for number in range(1, 21):
        ledger.turn(first, number, "first", timings_ms={"total": number * 100.0})
    ledger.turn(first, 21, "first", degraded=True, timings_ms={"total": 2100.0}, conversation_status="paused")
    ledger.turn(first, 22, "first", conversation_status="paused", timings_ms={})
    failed = {"state": "failed", "error_code": "LLM_TIMEOUT", "timings_ms": {"total": 45000.0}}
    ledger.turn(second, 1, "first", **failed, conversation_status=None)
    ledger.turn(second, 2, "first", state="open", cost_usd=None, conversation_status=None, timings_ms={})
    summary = _read(ledger.client, "summary")
    assert summary["turns"] == {"total": 24, "done": 21, "degraded": 1, "failed": 1, "open": 1}
    assert summary["handoffs"] == 1
    assert summary["latency_ms"] == {"p50": 1100.0, "p95": 2000.0}


def test_a_visit_is_completed_abandoned_or_open_and_only_one_of_them(ledger: Ledger) -> None:
    enters, lacks = {"entered_stage": True}, {"missing_fields": ["order_number", "name"]}
    completed, left, silent = (ledger.conversation() for _ in range(3))
    ledger.turn(completed, 1, "first", **enters, **lacks)
    ledger.turn(completed, 2, "first", missing_fields=["name"])
    ledger.turn(completed, 3, "first")
    ledger.turn(completed, 4, "second", **enters, missing_fields=["colour"])
    ledger.turn(completed, 5, "first", **enters, **lacks, conversation_status="completed")
    ledger.turn(left, 1, "first", **enters, **lacks)
    ledger.turn(left, 2, "second", **enters, missing_fields=["colour"], conversation_status="paused")
    ledger.turn(silent, 1, "first", **enters, **lacks)
    talking = ledger.conversation()
    ledger.turn(talking, 1, "first", **enters, **lacks, at="2026-01-30T23:31:00Z")
    first, second = (_stage(ledger.client, name) for name in ("first", "second"))
    assert _outcomes(first) == (5, 2, 2, 1)
    assert _outcomes(second) == (2, 1, 1, 0)
    assert first["turns"] == 7
    assert first["most_missed_field"] == {"field_name": "name", "turns": 6}
    assert first["seconds_in_stage"] == 2.0
    assert _stage(ledger.client, "first", PERIOD.replace("until=2026-01-31", "until=2026-02-01"))["open"] == 0


def test_what_the_model_did_not_answer_completes_nothing(ledger: Ledger) -> None:
    conversation_id = ledger.conversation()
    ledger.turn(conversation_id, 1, "first", entered_stage=True, degraded=True)
    ledger.turn(conversation_id, 2, "first", state="failed", conversation_status=None, missing_fields=None)
    stage = _stage(ledger.client, "first")
    assert _outcomes(stage) == (1, 0, 1, 0)
    assert (stage["turns"], stage["degraded_turns"], stage["most_missed_field"]) == (1, 1, None)


def test_a_visit_from_before_the_period_counts_as_turns_alone(ledger: Ledger) -> None:
    conversation_id = ledger.conversation()
    ledger.turn(conversation_id, 1, "first", entered_stage=True, missing_fields=["name"], at="2025-12-31T23:59:00Z")
    ledger.turn(conversation_id, 2, "first", at="2026-01-01T00:01:00Z")
    # What a turn from before the columns existed has: nothing.
    ledger.turn(conversation_id, 3, "second", missing_fields=None, conversation_status=None)
    assert _outcomes(_stage(ledger.client, "first")) == (0, 0, 0, 0)
    assert _outcomes(_stage(ledger.client, "second")) == (0, 0, 0, 0)
    assert _stage(ledger.client, "first")["turns"] == 1
    assert _stage(ledger.client, "first")["seconds_in_stage"] is None


def test_a_renamed_stage_has_its_new_name_and_a_deleted_one_its_last(ledger: Ledger) -> None:
    conversation_id, gone = ledger.conversation(), str(uuid.uuid4())
    ledger.turn(conversation_id, 1, "first")
    ledger.turn(conversation_id, 2, "gone", stage_id=gone)
    path = f"/api/v1/stages/{ledger.stages['first']}"
    assert ledger.client.patch(path, {"stage_name": "beginning"}).status == 200
    named = {each["stage_id"]: each["stage_name"] for each in _read(ledger.client, "stages")["stages"]}
    assert named == {ledger.stages["first"]: "beginning", gone: "gone"}


def test_usage_adds_up_by_day_model_and_stage(ledger: Ledger) -> None:
    turn_id = ledger.turn(ledger.conversation(), 1, "first")
    ledger.step(turn_id, 0, "2026-01-10T23:59:59Z")
    ledger.step(turn_id, 1, "2026-01-11T00:00:00Z", model="m-2")
    ledger.step(turn_id, 2, "2026-01-11T00:00:00Z", stage_name="second")
    ledger.step(turn_id, 3, "2026-01-11T00:00:00Z", model=None, kind="data_retrieval")
    ledger.step(turn_id, 4, "2026-01-31T00:00:00Z")
    usage = _read(ledger.client, "usage")
    assert {"steps": 3, **_read(ledger.client, "summary")["usage"]} == usage["total"]
    assert usage["total"] == {
        "steps": 3, "prompt_tokens": 300, "completion_tokens": 30, "cost_usd": 1.5, "known_cost_usd": 1.5,
        "unknown_costs": 0,
    }  # fmt: skip
    counted = {by: {each[key]: each["steps"] for each in usage[by]} for by, key in BY.items()}
    assert counted == {
        "by_day": {"2026-01-10": 1, "2026-01-11": 2},
        "by_model": {"m-1": 2, "m-2": 1},
        "by_stage": {"first": 2, "second": 1},
    }
    narrowed = _read(ledger.client, "usage", PERIOD + "&model=m-1&stage_name=second")
    assert (narrowed["total"]["steps"], [each["day"] for each in narrowed["by_day"]]) == (1, ["2026-01-11"])


BY = {"by_day": "day", "by_model": "model", "by_stage": "stage_name"}


def test_an_unknown_cost_makes_the_sum_unknown_and_says_so(ledger: Ledger) -> None:
    conversation_id = ledger.conversation()
    turn_id = ledger.turn(conversation_id, 1, "first")
    ledger.step(turn_id, 0, "2026-01-10T00:00:00Z", model="new", cost_usd=None)
    ledger.step(turn_id, 1, "2026-01-10T00:00:00Z")
    unknown = {"cost_usd": None, "known_cost_usd": 0.5, "unknown_costs": 1}
    for found in (_read(ledger.client, "summary")["usage"], _read(ledger.client, "usage")["total"]):
        assert found | unknown == found
    by_model = {each["model"]: each["cost_usd"] for each in _read(ledger.client, "usage")["by_model"]}
    assert by_model == {"m-1": 0.5, "new": None}


def test_an_empty_period_is_zeros_and_nulls(alice: Client) -> None:
    summary = _read(alice, "summary")
    assert (summary["completion_rate"], summary["latency_ms"]) == (None, {"p50": None, "p95": None})
    assert (summary["turns"]["total"], summary["usage"]["cost_usd"]) == (0, 0)
    assert _read(alice, "stages")["stages"] == []
    usage = _read(alice, "usage")
    assert (usage["total"]["steps"], usage["by_day"], usage["by_model"], usage["by_stage"]) == (0, [], [], [])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("since=2026-01-02T00:00:00Z&until=2026-01-02T00:00:00Z", "since"),
        ("since=2026-01-02T00:00:00Z&until=2027-01-03T00:00:01Z", "366"),
        ("since=2020-01-01T00:00:00Z", "366"),
        ("since=9999-01-01T00:00:00Z", "since"),
        ("until=0001-01-02T00:00:00Z", "until"),
        ("since=2026-13-01", "since"),
        ("colour=red", "colour"),
    ],
)
def test_a_period_that_cannot_be_is_refused(alice: Client, query: str, names: str) -> None:
    for what in ("summary", "stages", "usage"):
        refused = alice.get(f"/api/v1/analytics/{what}?{query}")
        assert (refused.status, refused.error_code) == (400, "INVALID_REQUEST")
        assert names in refused.body["details"]


def test_charlie_sees_nothing_of_alices(ledger: Ledger, charlie: Client, master: Client) -> None:
    turn_id = ledger.turn(ledger.conversation(), 1, "first", entered_stage=True)
    ledger.step(turn_id, 0, "2026-01-10T00:00:00Z")
    assert _read(charlie, "summary")["turns"]["total"] == _read(charlie, "usage")["total"]["steps"] == 0
    assert _read(charlie, "stages")["stages"] == []
    for what in ("summary", "stages", "usage"):
        named = f"/api/v1/analytics/{what}?{PERIOD}&business_id="
        assert charlie.get(named + ledger.client.business_id).status == 403
        assert master.get(named + ledger.client.business_id).status == 200
        assert master.get(named + str(uuid.uuid4())).status == 404


@contextmanager
def _locked(database_url: str, table: str) -> Iterator[None]:
    connection = psycopg2.connect(database_url)
    try:
        connection.cursor().execute(f"LOCK TABLE {table}")
        yield
    finally:
        connection.close()


def test_a_period_that_takes_too_long_says_so(
    alice: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytics, "STATEMENT_SECONDS", 0.05)
    with _locked(database_url, "turns"):
        answer = alice.get(f"/api/v1/analytics/summary?{PERIOD}")
    assert (answer.status, answer.error_code) == (503, "DATABASE_UNAVAILABLE")
    assert answer.body["remediation"] == "Ask for a shorter period"
    assert _read(alice, "summary")["turns"]["total"] == 0


def test_sums_never_hold_every_connection(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "WAIT_SECONDS", 0.1)
    for _ in range(view.AT_ONCE):
        assert view._slots.acquire(blocking=False)
    try:
        answer = alice.get(f"/api/v1/analytics/stages?{PERIOD}")
        assert (answer.status, answer.error_code, answer.headers["Retry-After"]) == (503, "DATABASE_UNAVAILABLE", "1")
    finally:
        view._slots.release(view.AT_ONCE)
    assert _read(alice, "stages")["stages"] == []


def test_sums_wait_a_moment_for_one_another_but_not_in_any_number(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "WAIT_SECONDS", 30)
    with ThreadPoolExecutor(view.AT_ONCE + view.IN_LINE) as pool:
        answers = list(pool.map(lambda _: alice.get(f"/api/v1/analytics/summary?{PERIOD}"), range(20)))
    assert [answer.status for answer in answers] == [200] * 20
    for _ in range(view.AT_ONCE + view.IN_LINE):
        assert view._places.acquire(blocking=False)
    try:
        assert alice.get(f"/api/v1/analytics/summary?{PERIOD}").status == 503
    finally:
        view._places.release(view.AT_ONCE + view.IN_LINE)
