"""A whole turn with a scripted model: a Turn in, a Turn out, and the ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from nlp import llm, pipeline
from nlp.side_by_side import Result, Threads
from tests.nlp import turns
from tests.nlp.turns import DOWN, GIVEN, IN_ORDER, chosen, found, good


@pytest.fixture
def threads() -> Iterator[Threads]:
    some = Threads(2)
    yield some
    some.close()


def test_turn_is_answered_in_three_steps() -> None:
    seen = list(pipeline.run(turns.turn(), good()))
    after = seen[-1]
    assert [len(turn.steps) for turn in seen] == [1, 2, 3]
    assert (after.stage, after.data, after.response) == (turns.ORDER, {"order_number": "4411"}, "It is on its way.")
    assert (after.status, after.degraded, after.answered_by) == ("active", False, "gpt-5.4-mini")
    assert turns.outcomes(after) == [(kind, "ok") for kind in turns.KINDS]


def test_ledger_tells_everything_of_a_step() -> None:
    script = good()
    step = turns.run(turns.turn(), script).steps[1]
    assert (step.stage_name, step.template_id, step.template_version) == ("order_status", "icmp.data_extraction", 3)
    assert (step.model, step.attempts, step.prompt_tokens, step.completion_tokens) == ("gpt-5.4-mini", 1, 100, 10)
    assert step.cost_usd == pytest.approx((100 * 0.75 + 10 * 4.5) / 1e6)
    assert step.prompt == list(script.requests[1].messages)
    assert (step.raw_outputs, step.output) == ([json.dumps(GIVEN)], GIVEN)
    assert step.verdict["order_number"] == {"status": "given"}


def test_extraction_runs_beside_selection_for_the_expected_stage(threads: Threads) -> None:
    together = threading.Barrier(2, timeout=5)
    script = good()

    def ask(request: llm.Request) -> llm.Answer:
        if request.kind != "response_generation":
            together.wait()
        return script(request)

    after = turns.run(turns.turn("status of my order 4411"), ask, threads)
    assert turns.outcomes(after) == [(kind, "ok") for kind in turns.KINDS]
    assert after.data == {"order_number": "4411"}


def test_speculation_for_another_stage_is_kept_in_the_ledger_and_not_merged(threads: Threads) -> None:
    after = turns.run(replace(IN_ORDER, stage=turns.ORDER), good(stage_selection=chosen("greeting")), threads)
    # When it was done ahead is a matter of threads.
    assert sorted(turns.outcomes(after)) == [
        ("data_extraction", "skipped"),
        ("data_extraction", "speculative"),
        ("response_generation", "ok"),
        ("stage_selection", "ok"),
    ]
    [ahead] = [step for step in after.steps if step.outcome == "speculative"]
    assert (after.data, ahead.output, ahead.stage_name) == ({}, GIVEN, "order_status")


class _AtOnce(Threads):
    """Work that is over before anything else begins."""

    def start(self, work: Callable[[], Result]) -> Future[Result] | None:
        future: Future[Result] = Future()
        future.set_result(work())
        return future


def test_speculation_that_is_over_is_kept_before_the_reply_is_asked_for() -> None:
    before = replace(IN_ORDER, stage=turns.ORDER)
    *_, kept, _ = pipeline.run(before, good(stage_selection=chosen("greeting")), _AtOnce(1))
    assert ("data_extraction", "speculative") in turns.outcomes(kept)
    assert kept.response is None


def test_extraction_runs_again_for_the_stage_that_was_chosen(threads: Threads) -> None:
    other = turns.stage("returns", output_schema=turns.ORDER_FIELDS)
    before = turns.turn(stage=turns.ORDER, stages=(turns.ORDER, other))
    after = turns.run(before, good(stage_selection=chosen("returns")), threads)
    extractions = {(step.outcome, step.stage_name) for step in after.steps if step.kind == "data_extraction"}
    assert extractions == {("ok", "returns"), ("speculative", "order_status")}
    assert after.data == {"order_number": "4411"}


def test_speculation_still_running_is_not_waited_for(threads: Threads) -> None:
    release = threading.Event()
    script = good(stage_selection=chosen("greeting"))

    def ask(request: llm.Request) -> llm.Answer:
        if request.kind == "data_extraction":
            release.wait(5)
        return script(request)

    after = turns.run(IN_ORDER, ask, threads)
    release.set()
    assert after.steps[-1].verdict == {"reason": "abandoned"}
    assert (after.steps[-1].outcome, after.usage["cost_usd"]) == ("speculative", None)


def test_failed_speculation_for_another_stage_does_no_harm(threads: Threads) -> None:
    after = turns.run(IN_ORDER, good(stage_selection=chosen("greeting"), data_extraction=DOWN), threads)
    assert after.response == "It is on its way."
    assert not after.degraded


def test_busy_threads_leave_extraction_to_the_caller() -> None:
    none_free, release = Threads(1), threading.Event()
    busy = none_free.start(lambda: release.wait(5))
    script = good()
    after = turns.run(IN_ORDER, script, none_free)
    release.set()
    assert busy is not None
    assert script.kinds() == list(turns.KINDS)
    assert turns.outcomes(after) == [(kind, "ok") for kind in turns.KINDS]
    none_free.close()


def test_single_reachable_stage_skips_selection(threads: Threads) -> None:
    script = good()
    after = turns.run(
        turns.turn(stages=(turns.ORDER,), agents={"a": turns.agent("a", is_default=True)}), script, threads
    )
    assert script.kinds() == ["data_extraction", "response_generation"]
    assert (after.stage, after.confidence, after.agent_id) == (turns.ORDER, None, "a")
    step = after.steps[0]
    assert (step.outcome, step.attempts, step.latency_ms, step.prompt) == ("skipped", 0, 0, [])


def test_stage_without_fields_skips_extraction(threads: Threads) -> None:
    script = good(stage_selection=chosen("greeting"))
    after = turns.run(turns.turn(stage=turns.GREETING), script, threads)
    assert script.kinds() == ["stage_selection", "response_generation"]
    assert (after.steps[1].outcome, after.missing_fields) == ("skipped", ())


def test_fixed_text_needs_no_model_and_is_filled_in() -> None:
    stage = turns.stage("greeting", fixed_text="Hello {{ user.name }}, {{ message }}")
    script = good(stage_selection=chosen("greeting"))
    after = turns.run(turns.turn("{{ now }}", stages=(stage, turns.ORDER)), script)
    assert after.response == "Hello Pat, {{ now }}"
    assert turns.outcomes(after)[-1] == ("response_generation", "skipped")
    assert script.kinds() == ["stage_selection"]


@pytest.mark.parametrize(
    ("stage_type", "agent_type", "data", "status"),
    [
        ("information", "ai", {}, "active"),
        ("handoff", "ai", {}, "paused"),
        ("information", "human", {}, "paused"),
        ("closing", "ai", {}, "active"),
        ("closing", "ai", {"order_number": "4411"}, "completed"),
    ],
)
def test_stage_and_agent_decide_what_becomes_of_the_conversation(
    stage_type: str, agent_type: str, data: dict[str, Any], status: str
) -> None:
    stage = turns.stage("end", stage_type=stage_type, agent_id="a1", output_schema=turns.ORDER_FIELDS)
    agents = {"a1": turns.agent("a1", agent_type=agent_type)}
    after = turns.run(turns.turn(stages=(stage,), agents=agents, data=data), good(data_extraction=found()))
    assert after.status == status


def test_reply_loses_what_cannot_be_seen() -> None:
    after = turns.run(turns.turn(), good(response_generation=" One\ntwo\x00\x1b\u200b three\U000e0041. "))
    assert after.response == "One\ntwo three."


def test_settings_of_the_prompt_come_before_the_agents_and_only_for_the_reply() -> None:
    settings = {"temperature": 0.1, "seed": None}
    stage = turns.stage("order_status", agent_id="a1", output_schema=turns.ORDER_FIELDS, model_settings=settings)
    agents = {"a1": turns.agent("a1", model_settings={"temperature": 0.9, "max_tokens": 50.0, "model": "gpt-5.4"})}
    script = good()
    before = turns.turn(stages=(stage, turns.GREETING), stage=stage, agents=agents, agent_id="a1", deadline=99.0)
    turns.run(before, script)
    asked = [(request.model, request.settings, request.deadline) for request in script.requests]
    assert asked[:2] == [("gpt-5.4-mini", {"temperature": 0.1}, 99.0)] * 2
    assert asked[2] == ("gpt-5.4", {"temperature": 0.1, "max_tokens": 50}, 99.0)
    # Servers with typed requests refuse 50.0.
    assert isinstance(asked[2][1]["max_tokens"], int)


def test_usage_and_timings_are_sums_over_the_steps() -> None:
    after = turns.run(turns.turn(), good())
    assert after.usage == {"prompt_tokens": 300, "completion_tokens": 30, "cost_usd": pytest.approx(0.00036)}
    assert set(after.timings_ms) == {*turns.KINDS, "data_retrieval"}
    assert after.timings_ms["data_retrieval"] == 0


@pytest.mark.parametrize(("asked", "is_known"), [("gpt-5.4-mini", True), ("a-model-of-their-own", False)])
def test_an_answer_of_unknown_price_costs_what_the_model_that_was_asked_costs(asked: str, is_known: bool) -> None:
    odd = llm.Answer("Hello.", model="somebody-elses-model", prompt_tokens=100)
    known = llm.Answer(json.dumps(turns.chosen("order_status")), model="gpt-5.4-mini", prompt_tokens=100)
    before = turns.turn(stages=(turns.stage("order_status"), turns.GREETING), model=asked)
    after = turns.run(before, good(stage_selection=known, response_generation=odd))
    costs = [step.cost_usd for step in after.steps if step.prompt_tokens]
    assert costs == [pytest.approx(100 * 0.75 / 1e6), pytest.approx(100 * 0.75 / 1e6) if is_known else None]
    assert (after.usage["cost_usd"] is not None) == is_known
