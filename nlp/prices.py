"""What a model's tokens cost, from the one table in prices.json."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

_TABLE = Path(__file__).with_name("prices.json")
_DATE = re.compile(r"-\d{4}(-\d{2}-\d{2})?")


def cost_usd(model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """US dollars; None for a model that the table lacks. A dated name costs what the name before its date costs."""
    name = known_name(model)
    if name is None:
        return None
    price = _prices()[name]
    tokens_cost = prompt_tokens * price["prompt_usd_per_million"]
    tokens_cost += completion_tokens * price["completion_usd_per_million"]
    return round(tokens_cost / 1_000_000, 8)


@functools.lru_cache(maxsize=1024)
def known_name(model: str) -> str | None:
    """The table's name for a model, with or without its date; None when the table lacks it."""
    return model if model in _prices() else _without_date(model) or None


@functools.cache
def _prices() -> dict[str, dict[str, float]]:
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {name: price for name, price in table.items() if not name.startswith("_")}


def _without_date(model: str) -> str:
    known = [name for name in _prices() if model.startswith(name) and _DATE.fullmatch(model[len(name) :])]
    return max(known, key=len, default="")
