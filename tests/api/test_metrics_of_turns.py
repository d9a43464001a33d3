"""Whole turns in the metrics: each counted once with what its steps took, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from api.settings import Settings
from tests.api import shop
from tests.api.shop import Thinker
from tests.api.test_metrics import counted
from tests.nlp import model_server

STEP = "icmp_steps_total"


@pytest.fixture(scope="module")
def thinker(settings: Settings, serve: Callable[[Flask], int]) -> Iterator[Thinker]:
    """An app whose model is scripted."""
    with shop.thinking(settings, serve) as made:
        yield made


def test_a_turn_and_each_of_its_steps_are_counted_once(thinker: Thinker) -> None:
    client = thinker.shop(shop.ORDER_STATUS, shop.SMALL_TALK)
    thinker.script(
        stage_selection=shop.picks("order_status"),
        data_extraction=shop.finds(order_number="4411"),
        response_generation=[shop.says(""), shop.says("It is on its way.")],
    )
    named = {"model": "m-1"}
    grown = counted(
        lambda: shop.write(client, "Where is order 4411?"),
        ("icmp_turns_total", {"outcome": "done"}),
        ("icmp_turn_seconds_count", {}),
        ("icmp_turn_wait_seconds_count", {}),
        (STEP, {"kind": "stage_selection", "outcome": "ok", **named}),
        (STEP, {"kind": "data_extraction", "outcome": "ok", **named}),
        (STEP, {"kind": "response_generation", "outcome": "reasked", **named}),
        ("icmp_tokens_total", {"direction": "prompt", **named}),
        ("icmp_tokens_total", {"direction": "completion", **named}),
        ("icmp_turns_in_flight", {}),
    )
    assert grown == [1, 1, 1, 1, 1, 1, 48, 12, 0]


@pytest.mark.parametrize(("fallback", "turn"), [("Please call us.", "degraded"), (None, "failed")])
def test_a_turn_without_a_model_is_counted_by_how_it_ends(thinker: Thinker, fallback: str | None, turn: str) -> None:
    client = thinker.shop(shop.stage("small_talk", stage_type="fallback", fallback_text=fallback))
    thinker.script(response_generation=model_server.fails(401))
    grown = counted(
        lambda: shop.write(client, "Hello"),
        ("icmp_turns_total", {"outcome": turn}),
        ("icmp_turn_seconds_count", {}),
        (STEP, {"kind": "response_generation", "outcome": "failed", "model": "m-1"}),
    )
    assert grown == [1, 1, 1]
