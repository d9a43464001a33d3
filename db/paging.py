"""Pages of a list: newest first, by offset or, however deep, by the place of the last row seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Page:
    """`after` is (sort value, id) of the last row of the page before; with it `offset` starts from there."""

    limit: int = 100
    offset: int = 0
    after: tuple[Any, str] | None = None


def clause(page: Page, sort: str, key: str | None = None) -> tuple[str, dict[str, Any]]:
    """The end of a query on `sort` and `key` (column names from our own code) and its parameters. `key` tells rows with
    the same sort value apart; without one no two have the same, and an order by `sort` alone is what the index has:
    with more to it the planner may read and sort all rows to show a few."""
    values: dict[str, Any] = {"page_limit": page.limit, "page_offset": page.offset}
    where = ""
    if page.after is not None:
        where = (
            f" AND {sort} < %(page_sort)s" if key is None else f" AND ({sort}, {key}) < (%(page_sort)s, %(page_key)s)"
        )
        values |= {"page_sort": page.after[0], "page_key": page.after[1]}
    order = f"{sort} DESC" if key is None else f"{sort} DESC, {key} DESC"
    return f"{where} ORDER BY {order} LIMIT %(page_limit)s OFFSET %(page_offset)s", values


def conditions(known: Mapping[str, str], names: Iterable[str]) -> str:
    """The conditions of a query's filters, each after an AND; `known` has them by their names."""
    return "".join(f" AND {known[name]}" for name in names)
