"""What tokens cost."""

from __future__ import annotations

import pytest

from nlp import prices


def test_cost_follows_both_kinds_of_tokens() -> None:
    assert prices.cost_usd("gpt-5.4-mini", 1_000_000, 100_000) == pytest.approx(0.75 + 0.45)


def test_dated_name_costs_what_the_name_before_its_date_costs() -> None:
    assert prices.cost_usd("gpt-5.4-mini-2026-03-17", 1000, 0) == prices.cost_usd("gpt-5.4-mini", 1000, 0)
    assert prices.cost_usd("gpt-4o-2024-05-13", 1000, 0) != prices.cost_usd("gpt-4o", 1000, 0)


@pytest.mark.parametrize("model", ["gpt-5.4-huge", "gpt-5.4-mini-preview", "", "_source", "somebody-elses"])
def test_unknown_model_has_no_price(model: str) -> None:
    assert prices.cost_usd(model, 1000, 1000) is None


def test_offline_model_costs_nothing() -> None:
    assert prices.cost_usd("icmp-offline", 1000, 1000) == 0
