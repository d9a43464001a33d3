"""Which stage a turn ends up in: a Turn in, a Turn out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nlp import stage_selection
from nlp.turn import Turn
from tests.nlp import turns


def selected(before: Turn, answer: dict[str, Any] | None) -> str:
    stage = stage_selection.apply(before, answer).stage
    assert stage is not None
    return stage.stage_name


def test_named_stage_is_chosen_with_its_confidence() -> None:
    after = stage_selection.apply(turns.turn(), turns.chosen("order_status", 0.75))
    assert (after.stage, after.confidence) == (turns.ORDER, 0.75)
    assert after.verdict == {"stage": "order_status", "kept": False}


@pytest.mark.parametrize(("said", "taken"), [(1.7, 1.0), (-3, 0.0), (1, 1.0)])
def test_confidence_lies_between_nought_and_one(said: float, taken: float) -> None:
    assert stage_selection.apply(turns.turn(), turns.chosen("greeting", said)).confidence == taken


def test_none_keeps_the_present_stage() -> None:
    assert selected(turns.turn(stage=turns.GREETING), turns.chosen("none")) == "greeting"


def test_none_without_a_stage_takes_the_fallback_stage() -> None:
    assert selected(turns.turn(), turns.chosen("none")) == "anything_else"


def test_none_without_stage_and_fallback_takes_the_best_local_score() -> None:
    assert selected(turns.turn("order status?", stages=(turns.GREETING, turns.ORDER)), turns.chosen("none")) == (
        "order_status"
    )


def test_no_answer_counts_as_none() -> None:
    after = stage_selection.apply(turns.turn(stage=turns.ORDER), None)
    assert (after.stage, after.confidence) == (turns.ORDER, None)


def test_next_stages_limit_what_may_follow_and_keep_the_present_one() -> None:
    present = turns.stage("greeting", next_stages=["order_status", "no_such_stage"])
    before = turns.turn(stage=present, stages=(present, turns.ORDER, turns.FALLBACK))
    schema = stage_selection.answer_schema(before)
    assert schema["properties"]["stage"]["enum"] == ["greeting", "order_status", "none"]
    assert list(schema["properties"]) == ["reason", "stage", "confidence"]


def test_next_stages_that_all_stand_for_nothing_allow_nothing() -> None:
    present = turns.stage("greeting", next_stages=["no_such_stage"])
    before = turns.turn(stage=present, stages=(present, turns.ORDER, turns.FALLBACK))
    assert before.reachable == (present,)


def test_first_message_reaches_every_stage() -> None:
    assert turns.turn().reachable == turns.STAGES


def test_above_forty_stages_the_best_by_score_stay_with_present_and_fallback() -> None:
    many = tuple(turns.stage(f"topic_{number}") for number in range(60))
    present, fallback = turns.stage("zebra"), turns.FALLBACK
    wanted = turns.stage("broken_lamp", stage_description="A lamp arrived broken")
    before = turns.turn("my lamp is broken", stages=(*many, present, fallback, wanted), stage=present)
    reachable = before.reachable
    assert len(reachable) == 40
    assert {"zebra", "anything_else", "broken_lamp"} <= {stage.stage_name for stage in reachable}


def test_first_message_is_expected_in_the_best_scored_stage() -> None:
    assert turns.turn("the status of my order").stage_or_best == turns.ORDER


def test_first_message_that_fits_nothing_is_expected_in_the_fallback_stage() -> None:
    assert turns.turn("xyzzy").stage_or_best == turns.FALLBACK


def test_template_of_the_present_stage_asks_the_question() -> None:
    other = turns.template("own.selection", "Own words.")
    present = turns.stage("greeting", stage_selection={"prompt": {"template_id": "own.selection"}})
    before = turns.turn(stage=present, templates={**turns.TEMPLATES, "own.selection": other})
    assert stage_selection.prompt(before)[1]["content"] == "Own words."


AGENTS = {
    "a1": turns.agent("a1"),
    "a2": turns.agent("a2"),
    "a3": turns.agent("a3", is_default=True),
}


@pytest.mark.parametrize(
    ("of_stage", "present", "expected"), [("a2", "a1", "a2"), (None, "a1", "a1"), (None, None, "a3")]
)
def test_agent_is_the_stages_else_the_present_else_the_default(
    of_stage: str | None, present: str | None, expected: str
) -> None:
    stage = turns.stage("greeting", agent_id=of_stage)
    before = turns.turn(stages=(stage, turns.ORDER), agents=AGENTS, agent_id=present)
    assert stage_selection.apply(before, turns.chosen("greeting")).agent_id == expected


def test_business_without_default_agent_answers_without_one() -> None:
    before = turns.turn(agents={"a1": turns.agent("a1")})
    assert stage_selection.apply(before, turns.chosen("greeting")).agent is None


def test_stage_chosen_is_one_of_the_turns_own() -> None:
    renamed = replace(turns.ORDER, stage_name="greeting")
    assert stage_selection.apply(turns.turn(stages=(renamed,)), turns.chosen("greeting")).stage is renamed


def test_people_do_not_go_along_into_a_stage_without_an_agent() -> None:
    agents = {"h1": turns.agent("h1", agent_type="human"), "a1": turns.agent("a1", is_default=True)}
    before = turns.turn(agents=agents, agent_id="h1")
    assert stage_selection.apply(before, turns.chosen("order_status")).agent_id == "a1"
