"""What a Turn knows of itself."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from nlp import turn as turn_module
from tests.nlp import turns

HISTORY = turns.said("user: aaaaaaaa", "ai: bbbb", "user: cccc")


def test_window_keeps_the_newest_that_fit() -> None:
    assert turn_module.window(HISTORY, 2) == HISTORY[1:]
    assert turn_module.window(HISTORY, 4) == HISTORY
    assert turn_module.window(HISTORY, 0) == ()
    assert turn_module.window((), 10) == ()


def test_window_has_no_gaps() -> None:
    assert turn_module.window(turns.said("user: a", f"ai: {'b' * 100}", "user: c"), 10) == HISTORY[:0] + turns.said(
        "user: c"
    )


def test_ranking_puts_fallback_before_what_scores_nothing() -> None:
    assert [stage.stage_name for stage in turns.turn("order").ranking] == ["order_status", "anything_else", "greeting"]


def test_stage_that_is_present_comes_before_the_best_score() -> None:
    assert turns.turn("order", stage=turns.GREETING).stage_or_best == turns.GREETING


def test_agent_who_is_gone_is_nobody() -> None:
    assert turns.turn(agent_id="gone").agent is None


def test_changed_turn_ranks_anew() -> None:
    first = turns.turn("order")
    assert first.ranking[0] == turns.ORDER
    assert replace(first, message="greeting").ranking[0] == turns.GREETING


def test_changed_turn_keeps_what_still_holds_and_makes_the_rest_anew() -> None:
    first = turns.turn("order", history=HISTORY)
    assert (first.ranking[0], [said["content"] for said in first.spoken]) == (turns.ORDER, ["aaaaaaaa", "bbbb", "cccc"])
    assert first.changed(confidence=0.5, stage=turns.GREETING).spoken is first.spoken
    assert first.changed(message="greeting").ranking[0] == turns.GREETING
    assert first.changed(history=HISTORY[1:]).spoken == first.spoken[1:]


def test_hundreds_of_stages_are_ranked_quickly() -> None:
    many = tuple(turns.stage(f"topic_{number}") for number in range(300))
    assert len(turns.turn("topic 7", stages=many).reachable) == 40
    started = time.process_time()
    for _ in range(10):
        assert len(turns.turn("topic 7", stages=many).reachable) == 40
    assert time.process_time() - started < 2


def test_a_changed_turn_ranks_its_stages_anew_only_when_it_has_to() -> None:
    before = turns.turn("Where is my order?")
    ranking = before.ranking
    assert before.changed(data={"order_number": "4711"}).ranking is ranking
    after = before.changed(stage=turns.ORDER)
    assert (after.stage, before.stage) == (turns.ORDER, None)
    assert after.ranking is not ranking


def test_a_turn_has_no_other_fields() -> None:
    with pytest.raises(TypeError, match="colour"):
        turns.turn().changed(colour="blue")
