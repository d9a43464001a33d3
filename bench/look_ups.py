"""Stages that look things up: how the player sets them up, what each turn must then ask and find, and the counts."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import importer, rows, scores

NONE, API_CALL, WHERE, SEARCH = "none", "api_call", "database_query where", "database_query search"
QUERIES = (WHERE, SEARCH)
KINDS = (API_CALL, *QUERIES)
MOST_ROWS = 50
# Signs belong to their number: "+1" in a telephone number is another word than "1".
_AROUND_WORDS = "".join(set(string.punctuation) - set("+-"))
FIGURES = (
    "turns", "due", "made", "equal", "rows_due", "rows_reached",
    "file_calls", "file_calls_made", "file_calls_alike", "file_rows", "file_rows_reached",
)  # fmt: skip

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """One service, imported with one kind of look-up, and all its turns in their order; `products` as a look-up shows
    them, oldest first."""

    kind: str
    products: Sequence[Row]
    played: Sequence[scores.PlayedTurn]


def data_retrieval(kind: str, stage: importer.Stage, url: str) -> dict[str, Any]:
    """The section of a stage that looks up by its own fields; `url` is for calls."""
    if kind == NONE:
        return {"method": "none", "config": {}}
    templated = {name: f"{{{{ data.{name} }}}}" for name in stage.fields}
    if kind == API_CALL:
        return {"method": "api_call", "config": {"url": url, "method": "GET", "query": templated}}
    return {"method": "database_query", "config": _query(kind, stage, templated)}


def load_products(api: importer.Api, service: importer.Service) -> list[Row]:
    """Create a product of each row in the service's dialogues, once; raises ApiRefused."""
    stages = {stage.stage_name: stage for stage in service.stages}
    wanted: list[dict[str, Any]] = []
    for turn in (turn for dialogue in service.dialogues for turn in dialogue.turns):
        for row in turn.results:
            product = {"name": _name(row, stages[turn.stage]), "attributes": row}
            wanted += [] if product in wanted else [product]
    created = (importer.create(api, "/api/v1/products", product) for product in wanted)
    return [{name: product[name] for name in ("product_id", "name", "attributes")} for product in created]


def queries(ledger: importer.Answer) -> list[Any]:
    """The filled-in queries of one turn, by the answer of GET /turns/{turn_id}."""
    steps = ledger.body["steps"] if ledger.status == 200 else []
    asked = [step["prompt"] for step in steps if step["kind"] == "data_retrieval"]
    return [prompt["config"] for prompt in asked if prompt["method"] == "database_query"]


def report(rounds: Sequence[Round]) -> dict[str, Any]:
    """Counts for each kind of look-up, and every mismatch under `mismatches`."""
    counts = {one_round.kind: Counter[str]() for one_round in rounds}
    mismatches: list[str] = []
    for one_round in rounds:
        for one, expected in scores.with_expected(one_round.played):
            faults = _check(one_round, one, expected, counts[one_round.kind])
            mismatches += [f"{one_round.kind}: {one.where}: {fault}" for fault in faults]
    figures = {kind: {name: count[name] for name in FIGURES} for kind, count in counts.items()}
    return {"look_ups": figures, "mismatches": mismatches}


def table(figures: Mapping[str, Mapping[str, int]]) -> str:
    """The counts as a small Markdown table."""
    names = [name.replace("_", " ") for name in FIGURES]
    lines = [f"| look-up | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {kind} | {' | '.join(str(row[name]) for name in FIGURES)} |" for kind, row in figures.items()]
    return "\n".join(lines)


def _query(kind: str, stage: importer.Stage, values: Mapping[str, str]) -> dict[str, Any]:
    """Products by the stage's first required field as their name, or by the words of its first two."""
    required = [values[name] for name in stage.required]
    asked = {"where": {"name": required[0]}} if kind == WHERE else {"search": " ".join(required[:2])}
    fields = ["product_id", "name", "attributes"]
    return {"source": "products", **asked, "fields": fields, "order_by": "created_at", "limit": MOST_ROWS}


def _name(row: Row, stage: importer.Stage) -> str:
    return str(next((row[name] for name in stage.required if name in row), stage.stage_name))


def _check(one_round: Round, one: scores.PlayedTurn, expected: scores.Expected, counts: Counter[str]) -> list[str]:
    """The faults of one turn; counts what was asked and found."""
    stage = None if expected.missing_fields else expected.stage
    asked = _asked(one_round.kind, one.service, stage, expected.known) if stage else []
    found = _found(one_round, one.turn, stage, expected.known) if stage else []
    retrieved = (one.calls.state if one.calls else {}).get("retrieved")
    shown = (retrieved or {}).get("rows", [])
    counts.update(
        turns=1,
        due=len(asked),
        made=len(one.asked),
        equal=len(asked) if list(one.asked) == asked else 0,
        rows_due=len(found),
        rows_reached=_in_both(found, shown),
        file_calls=one.turn.call is not None,
        file_calls_made=one.turn.call is not None and bool(one.asked),
        file_calls_alike=one.turn.call == expected.known and bool(one.asked),
        file_rows=len(one.turn.results),
        file_rows_reached=_in_both(one.turn.results, [row.get("attributes", row) for row in shown]),
    )
    faults = []
    if list(one.asked) != asked:
        faults.append(f"looked up {list(one.asked)} instead of {asked}")
    if retrieved != ({"rows": found} if stage else None):
        faults.append(f"prompt 3 shows {str(retrieved)[:300]} instead of {str(found)[:300] if stage else 'nothing'}")
    if stage and {name: one.data[name] for name in stage.fields if name in one.data} != expected.known:
        faults.append(f"data is {one.data} instead of {expected.known}")
    return faults


def _asked(kind: str, service: importer.Service, stage: importer.Stage, known: Mapping[str, str]) -> list[Any]:
    if kind == API_CALL:
        return [rows.Request(rows.path(service.service, stage.stage_name), tuple(sorted(known.items())))]
    return [_query(kind, stage, known)]


def _found(one_round: Round, turn: importer.Turn, stage: importer.Stage, known: Mapping[str, str]) -> list[Row]:
    if one_round.kind == API_CALL:
        return list(turn.results)
    return _matching(one_round.products, _query(one_round.kind, stage, known))


def _matching(products: Sequence[Row], query: Mapping[str, Any]) -> list[Row]:
    """The player's own reading of a query: the same name, or every word somewhere in the product."""
    if "where" in query:
        found = [product for product in products if product["name"] == query["where"]["name"]]
    else:
        found = [product for product in products if _words(query["search"]) <= _words(_text(product))]
    return found[:MOST_ROWS]


def _text(product: Row) -> str:
    return " ".join((product["name"], *map(str, product["attributes"].values())))


def _words(text: str) -> set[str]:
    """Words as they are written, without case and the punctuation around them."""
    return {word.strip(_AROUND_WORDS) for word in text.casefold().split()} - {""}


def _in_both(some: Sequence[Row], others: Sequence[Row]) -> int:
    return sum(row in others for row in some)
