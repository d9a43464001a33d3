"""A whole turn with a model that answers badly or not at all: a Turn in, a Turn out, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nlp import llm, pipeline
from nlp.errors import ModelUnavailable
from nlp.side_by_side import Threads
from nlp.turn import Turn
from tests.nlp import turns
from tests.nlp.turns import DOWN, IN_ORDER, Script, chosen, good


@pytest.fixture
def threads() -> Iterator[Threads]:
    some = Threads(2)
    yield some
    some.close()


BAD_SELECTIONS: list[tuple[Any, str]] = [
    ("not json", "it was not valid JSON"),
    ('{"reason": "r", "stage": "greeting", "confidence": NaN}', "it was not valid JSON"),
    ('{"reason": "r", "stage": "greeting", "confidence": 1e999}', "it was not valid JSON"),
    ('{"reason": "r", "stage": "greeting", "confidence": 1' + "0" * 400 + "}", "it was not valid JSON"),
    ("[" * 100_000, "it was not valid JSON"),
    ('{"reason": "\\ud800", "stage": "greeting", "confidence": 1}', "it was not valid JSON"),
    ('{"reason": "\\u0000", "stage": "greeting", "confidence": 1}', "it held a NUL character"),
    ('{"unexpected": 1}', "it did not fit the schema: "),
    (chosen("no_such_stage"), "it did not fit the schema: stage: 'no_such_stage' is not one of"),
    (llm.Answer(None, refusal="I will not."), "it was a refusal"),
    (llm.Answer(None), "it was empty"),
    (llm.Answer('{"reason": "r', finish_reason="length"), "it was cut off before its end"),
]


@pytest.mark.parametrize(("bad", "fault"), BAD_SELECTIONS)
def test_bad_answer_is_asked_again_with_the_fault_named(bad: Any, fault: str) -> None:
    script = good(stage_selection=[bad, chosen("order_status")])
    after = turns.run(turns.turn(), script)
    first, second = (request.messages for request in script.requests[:2])
    assert second[: len(first)] == first
    assert second[-1]["content"].startswith(f"Your last answer could not be used: {fault}")
    assert second[-1]["role"] == "user"
    step = after.steps[0]
    assert (step.outcome, step.attempts, len(step.raw_outputs)) == ("reasked", 2, 2)
    assert (after.stage, step.prompt) == (turns.ORDER, list(first))


def test_bad_answer_is_repeated_to_the_model_when_there_was_text() -> None:
    script = good(stage_selection=["not json", chosen("order_status")])
    turns.run(turns.turn(), script)
    assert script.requests[1].messages[-2] == {"role": "assistant", "content": "not json"}


def test_second_bad_selection_stays_in_the_stage() -> None:
    after = turns.run(IN_ORDER, good(stage_selection="not json"))
    assert (after.stage, after.confidence, after.response) == (turns.ORDER, None, "It is on its way.")
    step = after.steps[0]
    assert (step.outcome, step.attempts, step.raw_outputs) == ("safe_default", 2, ["not json", "not json"])
    assert step.verdict == {"stage": "order_status", "kept": True, "fault": "it was not valid JSON"}


def test_second_bad_extraction_keeps_the_data() -> None:
    after = turns.run(replace(IN_ORDER, data={"urgent": True}), good(data_extraction={"unexpected": 1}))
    assert (after.data, after.missing_fields) == ({"urgent": True}, ("order_number",))
    assert after.steps[1].outcome == "safe_default"
    assert not after.degraded


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"value": "soon", "quote": None}, "invalid"),
        ({"value": True}, "inferred"),
        ({"value": True, "quote": 5, "sure": 0.9}, "inferred"),
        ("yes", "invalid"),
        ([], "invalid"),
        (None, "missing"),
    ],
)
def test_what_is_right_in_a_second_bad_extraction_counts(wrong: Any, status: str) -> None:
    """A field that is not as it should be says nothing about the others."""
    deep: Any = "x" * 1000
    for _ in range(600):
        deep = [deep]
    answer = {**turns.GIVEN, "urgent": wrong, "unasked": deep}
    after = turns.run(IN_ORDER, good(data_extraction=answer))
    step = after.steps[1]
    right = {"urgent": {"value": True, "quote": None}} if status == "inferred" else {}
    assert (step.outcome, step.attempts, step.output) == ("safe_default", 2, turns.GIVEN_ALONE | right)
    assert after.data == {"order_number": "4411"} | ({"urgent": True} if status == "inferred" else {})
    assert after.missing_fields == ()
    assert {name: step.verdict[name]["status"] for name in ("order_number", "urgent")} == {
        "order_number": "given",
        "urgent": status,
    }
    assert "schema" in step.verdict["fault"]


@pytest.mark.parametrize(
    "bad",
    [
        llm.Answer("", prompt_tokens=1),
        llm.Answer(" \n\u200b"),
        llm.Answer("Half a", finish_reason="length"),
        llm.Answer(None, refusal="No."),
        llm.Answer("x" * 32_001),
    ],
)
def test_bad_reply_is_asked_again_once(bad: llm.Answer) -> None:
    after = turns.run(turns.turn(), good(response_generation=[bad, "Better."]))
    assert (after.response, after.degraded, after.steps[-1].outcome) == ("Better.", False, "reasked")


def test_second_bad_reply_gives_way_to_the_stages_fallback_text() -> None:
    stage = turns.stage("order_status", fallback_text="Please call us, {{ user.name }}.")
    before = turns.turn(stages=(stage, turns.GREETING))
    after = turns.run(before, good(response_generation=llm.Answer("Half", finish_reason="length")))
    assert (after.response, after.degraded) == ("Please call us, Pat.", True)
    assert after.steps[-1].outcome == "fallback"


@pytest.mark.parametrize(
    ("bad", "used"),
    [
        ([llm.Answer("Half a", finish_reason="length")], "Half a"),
        ([llm.Answer(None, refusal="I must not.")], "I must not."),
        ([llm.Answer("Half a", finish_reason="length"), llm.Answer("")], "Half a"),
        ([llm.Answer("x" * 40_000)], "x" * 32_000),
    ],
)
def test_without_fallback_text_the_last_words_are_used(bad: list[turns.Reply], used: str) -> None:
    after = turns.run(turns.turn(), good(response_generation=bad))
    assert (after.response, after.degraded) == (used, True)
    assert after.steps[-1].outcome == "safe_default"


def test_two_empty_replies_without_fallback_text_are_an_unavailable_model() -> None:
    seen = []
    with pytest.raises(ModelUnavailable, match="empty_answer"):
        for turn in pipeline.run(turns.turn(), good(response_generation=llm.Answer(""))):
            seen.append(turn)
    step = seen[-1].steps[-1]
    assert (step.outcome, step.attempts, step.verdict) == ("failed", 2, {"reason": "empty_answer"})


def _until_error(before: Turn, script: Script, threads: Threads | None = None) -> Iterator[Turn]:
    try:
        yield from pipeline.run(before, script, threads)
    except ModelUnavailable:
        return


@pytest.mark.parametrize("kind", turns.KINDS)
def test_unavailable_model_gives_way_to_the_fallback_text(kind: str) -> None:
    stages = tuple(
        turns.stage(name, fallback_text=f"Sorry from {name}.", output_schema=turns.ORDER_FIELDS)
        for name in ("greeting", "order_status")
    )
    after = turns.run(turns.turn(stages=stages, stage=stages[0]), good(**{kind: DOWN}))
    place = "greeting" if kind == "stage_selection" else "order_status"
    assert (after.response, after.degraded) == (f"Sorry from {place}.", True)
    assert [step.kind for step in after.steps] == list(turns.KINDS[: turns.KINDS.index(kind) + 1])
    assert (after.steps[-1].outcome, after.steps[-1].verdict) == ("failed", {"reason": "server_error"})
    assert after.usage["cost_usd"] is None
    assert after.answered_by == after.steps[0].model
    assert after.missing_fields == (() if kind == "response_generation" else ("order_number",))


@pytest.mark.parametrize(
    ("reason", "cost_usd"),
    [("rate_limited", 0), ("rejected", 0), ("unauthorized", 0), ("timeout", None), ("connection", None)],
)
def test_a_call_that_was_refused_costs_nothing_and_one_that_may_have_run_an_unknown_sum(
    reason: str, cost_usd: float | None
) -> None:
    stages = (turns.stage("greeting", fallback_text="Sorry."),)
    after = turns.run(turns.turn(stages=stages), good(response_generation=ModelUnavailable(reason)))
    assert (after.degraded, after.steps[-1].cost_usd) == (True, cost_usd)


@pytest.mark.parametrize("kind", turns.KINDS)
def test_unavailable_model_without_fallback_text_ends_the_turn_after_its_ledger(kind: str) -> None:
    steps = pipeline.run(turns.turn(), good(**{kind: DOWN}))
    seen = []
    with pytest.raises(ModelUnavailable) as caught:
        for turn in steps:
            seen.append(turn)
    assert caught.value is DOWN
    assert turns.outcomes(seen[-1])[-1] == (kind, "failed")
    assert seen[-1].response is None


def test_unavailable_model_on_a_first_message_uses_the_expected_stages_text(threads: Threads) -> None:
    stage = turns.stage("order_status", fallback_text="We will write back.", output_schema=turns.ORDER_FIELDS)
    before = turns.turn("status of my order", stages=(turns.GREETING, stage))
    after = turns.run(before, good(stage_selection=DOWN, data_extraction=DOWN), threads)
    assert (after.response, after.stage, after.status) == ("We will write back.", None, "active")
    assert sorted(turns.outcomes(after)) == [("data_extraction", "speculative"), ("stage_selection", "failed")]


def test_failed_speculation_for_the_chosen_stage_fails_the_turn_once(threads: Threads) -> None:
    seen = list(_until_error(IN_ORDER, good(data_extraction=DOWN), threads))
    assert turns.outcomes(seen[-1]) == [("stage_selection", "ok"), ("data_extraction", "failed")]


def test_model_that_fails_at_the_second_asking_keeps_its_first_words_in_the_ledger() -> None:
    seen = list(_until_error(turns.turn(), good(stage_selection=["not json", DOWN])))
    step = seen[-1].steps[-1]
    assert (step.outcome, step.raw_outputs, step.attempts, step.prompt_tokens) == ("failed", ["not json"], 2, 100)


def test_turn_that_was_not_understood_changes_no_status() -> None:
    stage = turns.stage("end", stage_type="closing", fallback_text="Sorry.")
    after = turns.run(turns.turn(stages=(stage, turns.GREETING), stage=stage), good(stage_selection=DOWN))
    assert (after.status, after.response) == ("active", "Sorry.")
