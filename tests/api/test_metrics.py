"""What is counted: by names that stay few, whatever callers and tenants send."""

from __future__ import annotations

import platform
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

import app as application
import db
from api import metrics
from api.settings import Settings
from db.turns import Step
from tests.conftest import MASTER_KEY, Client

METRICS_KEY = "only-for-prometheus-0123456789-0123456789"


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """A page of metrics: (name, labels) → value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _step(**changes: Any) -> Step:
    row: dict[str, Any] = {
        "kind": "response_generation",
        "outcome": "ok",
        "stage_name": "welcome",
        "template_id": None,
        "template_version": None,
        "model": "gpt-5.4-mini",
        "attempts": 1,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cost_usd": 0.25,
        "latency_ms": 1500.0,
        "prompt": [],
        "raw_outputs": [],
        "output": None,
        "verdict": None,
    }
    return Step(**(row | changes))


def counted(count: Callable[[], Any], *asked: tuple[str, Mapping[str, str]]) -> list[float]:
    """By how much each of the asked values grew."""
    before = [_value(name, **labels) for name, labels in asked]
    count()
    return [round(_value(name, **labels) - was, 6) for (name, labels), was in zip(asked, before, strict=True)]


def test_a_step_counts_itself_its_time_its_tokens_and_its_cost() -> None:
    model = {"model": "gpt-5.4-mini"}
    grown = counted(
        lambda: metrics.count_steps([_step(), _step(outcome="reasked", cost_usd=None)]),
        ("icmp_steps_total", {"kind": "response_generation", "outcome": "ok", **model}),
        ("icmp_steps_total", {"kind": "response_generation", "outcome": "reasked", **model}),
        ("icmp_step_seconds_sum", {"kind": "response_generation"}),
        ("icmp_tokens_total", {"direction": "prompt", **model}),
        ("icmp_tokens_total", {"direction": "completion", **model}),
        ("icmp_cost_usd_total", model),
    )
    assert grown == [1, 1, 3.0, 200, 40, 0.25]


def test_a_skipped_step_takes_no_time_and_a_look_up_has_no_model() -> None:
    nothing = {"model": None, "prompt_tokens": 0, "completion_tokens": 0}
    steps = [_step(kind="stage_selection", outcome="skipped", **nothing), _step(kind="data_retrieval", **nothing)]
    grown = counted(
        lambda: metrics.count_steps(steps),
        ("icmp_steps_total", {"kind": "stage_selection", "model": "none", "outcome": "skipped"}),
        ("icmp_steps_total", {"kind": "data_retrieval", "model": "none", "outcome": "ok"}),
        ("icmp_step_seconds_count", {"kind": "stage_selection"}),
        ("icmp_step_seconds_count", {"kind": "data_retrieval"}),
        ("icmp_tokens_total", {"model": "none", "direction": "prompt"}),
    )
    assert grown == [1, 1, 0, 1, 0]


@pytest.mark.parametrize("outcome", ["done", "degraded", "failed"])
def test_a_turn_counts_its_outcome_and_its_time(outcome: str) -> None:
    grown = counted(
        lambda: metrics.count_turn(outcome, 1.25),
        ("icmp_turns_total", {"outcome": outcome}),
        ("icmp_turn_seconds_sum", {}),
    )
    assert grown == [1, 1.25]


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("gpt-5.4-mini", "gpt-5.4-mini"),
        ("gpt-5.4-mini-2026-03-05", "gpt-5.4-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("our-own-8b", "our-own-8b"),
        ("somebody-elses-8b", "other"),
        ("gpt-5.4-mini-of-a-tenant", "other"),
        ("", "none"),
        (None, "none"),
    ],
)
def test_only_models_that_prices_or_settings_know_have_a_label_of_their_own(model: str | None, label: str) -> None:
    metrics.describe("1.2.3", "our-own-8b")
    assert metrics.model_label(model) == label
    assert _value("icmp_build_info", version="1.2.3", python=platform.python_version()) == 1


def test_requests_are_counted_by_rule_whatever_the_path(anybody: Client, alice: Client) -> None:
    def ask() -> None:
        for _ in range(3):
            assert alice.get(f"/api/v1/stages/{uuid.uuid4()}").status == 404
        assert anybody.get(f"/{uuid.uuid4()}").status == 404
        assert anybody.call("ZANZIBAR", "/api/v1/stages").status == 405
        assert anybody.call("PUT", "/healthz").status == 405

    grown = counted(
        ask,
        ("icmp_requests_total", {"method": "GET", "route": "/api/v1/stages/<stage_id>", "status": "404"}),
        ("icmp_request_seconds_count", {"route": "/api/v1/stages/<stage_id>"}),
        ("icmp_requests_total", {"method": "GET", "route": "none", "status": "404"}),
        ("icmp_requests_total", {"method": "other", "route": "none", "status": "405"}),
        ("icmp_requests_total", {"method": "PUT", "route": "none", "status": "405"}),
    )
    assert grown == [3, 3, 1, 1, 1]
    assert not [key for key in samples(_page(Client(alice.port, MASTER_KEY))) if "ZANZIBAR" in str(key)]


def test_the_pool_tells_who_waits_and_what_is_lent_out(settings: Settings) -> None:
    database = db.Database(settings.database_url, pool_size=2, checkout_seconds=0.05, observer=metrics.PoolObserver())

    def use() -> None:
        with database.transaction(None), database.transaction(None):
            assert _connections() == (2, 0)
            refused = threading.Thread(target=_refused, args=(database,))
            refused.start()
            refused.join()

    [waits, seconds] = counted(use, ("icmp_pool_wait_seconds_count", {}), ("icmp_pool_wait_seconds_sum", {}))
    assert waits == 3
    assert seconds >= 0.05
    assert _connections() == (0, 2)
    database.close()


def _connections() -> tuple[float, float]:
    metrics.sample()
    return _value("icmp_pool_connections", state="busy"), _value("icmp_pool_connections", state="idle")


def _refused(database: db.Database) -> None:
    with pytest.raises(db.DatabaseUnavailable), database.transaction(None):
        pass


def _page(client: Client) -> str:
    answer = client.get("/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return str(answer.body)


def test_the_page_is_for_its_own_key_and_the_master(
    settings: Settings, serve: Callable[[Flask], int], alice: Client
) -> None:
    port = serve(application.create_app(replace(settings, metrics_key=METRICS_KEY)))
    assert _page(Client(port, METRICS_KEY)).startswith("# HELP")
    assert _page(Client(port, MASTER_KEY)).startswith("# HELP")
    assert Client(port, METRICS_KEY).get("/api/v1/businesses").status == 401
    for key, status in ((None, 401), (f"{METRICS_KEY}x", 401), ("", 401), (alice.key, 403)):
        assert Client(port, key).get("/metrics").status == status


def test_without_a_key_of_its_own_the_page_is_the_masters(anybody: Client, alice: Client, master: Client) -> None:
    assert (anybody.get("/metrics").status, alice.get("/metrics").status) == (401, 403)
    assert Client(anybody.port, "None").get("/metrics").status == 401
    assert "icmp_requests_total" in _page(master)


def test_the_page_needs_no_database(settings: Settings, serve: Callable[[Flask], int]) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    alone = Client(serve(application.create_app(replace(settings, database_url=nowhere))), MASTER_KEY)
    assert "icmp_pool_wait_seconds_count" in _page(alone)


def test_a_breaker_is_shown_by_a_known_name() -> None:
    watch = application._breaker_watch()
    before = _value("icmp_breaker_open", model="other")
    watch("somebody-elses-8b", True)
    assert _value("icmp_breaker_open", model="other") == before + 1
    watch("somebody-elses-8b", False)
    assert _value("icmp_breaker_open", model="other") == before
