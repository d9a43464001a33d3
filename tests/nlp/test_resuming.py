"""A turn that is cut off and taken up again from its ledger: the same turn, and nothing finished is done twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

import pytest

from db.turns import Step
from nlp import llm, pipeline
from nlp.data_retrieval import Request
from nlp.errors import LookUpFailed, ModelUnavailable
from nlp.side_by_side import Threads
from nlp.turn import Turn
from tests.nlp import turns
from tests.nlp.turns import DOWN, chosen, found, good

LOOKED_UP = {"method": "database_query", "config": {"source": "orders", "where": {"sku": "{{ data.order_number }}"}}}
RETURNS = turns.stage("returns", output_schema=turns.ORDER_FIELDS, data_retrieval=LOOKED_UP, stage_type="closing")
FIXED = turns.stage("fixed", fixed_text="Yours, {{ user.name }}: {{ data.order_number }} {{ retrieved.rows.0.price }}")
PEOPLE = turns.stage("people", stage_type="handoff", output_schema=turns.ORDER_FIELDS, fallback_text="Sorry.")
STAGES = (turns.GREETING, turns.ORDER, turns.FALLBACK, RETURNS, FIXED, PEOPLE)
ROWS = [{"price": 12.5, "status": "sent", "none": None, "words": "\u201cé\u201d"}]
BEGINNINGS = {"none": None, "greeting": turns.GREETING, "order_status": turns.ORDER, "returns": RETURNS}


@pytest.fixture(scope="module")
def threads() -> Iterator[Threads]:
    some = Threads(2)
    yield some
    some.close()


class World:
    """A model that answers by what it is asked, and a look-up; both count."""

    def __init__(self, stage: str, faults: Sequence[str] = (), rows: Any = None) -> None:
        self._stage, self._faults, self._rows = stage, faults, rows
        self.calls: list[str] = []

    def ask(self, request: llm.Request) -> llm.Answer:
        self.calls.append(request.kind)
        bad = f"{request.kind}" in self._faults
        if bad and not request.messages[-1]["content"].startswith("Your last answer"):
            return llm.Answer("", model="m", prompt_tokens=3)
        if f"{request.kind} twice" in self._faults:
            return llm.Answer("rubbish", model="m", prompt_tokens=3)
        if request.kind == "response_generation":
            # Whatever differs in the prompt differs in the reply.
            text = json.dumps([message["content"] for message in request.messages[:5]])
        else:
            answers: dict[str, Any] = {"stage_selection": chosen(self._stage), "data_extraction": turns.GIVEN}
            text = json.dumps(answers[request.kind])
        return llm.Answer(text, model="m", prompt_tokens=7, completion_tokens=2)

    def look_up(self, _request: Request) -> list[dict[str, Any]]:
        self.calls.append("look_up")
        if isinstance(self._rows, LookUpFailed):
            raise self._rows
        return list(self._rows or ROWS)


def from_ledger(steps: Sequence[Step]) -> list[Step]:
    """The steps as the database gives them back."""
    secret = ("prompt", "raw_outputs", "output", "verdict")
    rows = [asdict(step) for step in steps]
    return [
        Step(
            **row
            | json.loads(json.dumps({name: row[name] for name in secret}))
            | {"cost_usd": None if row["cost_usd"] is None else Decimal(str(row["cost_usd"]))}
        )
        for row in rows
    ]


def result(turn: Turn) -> tuple[Any, ...]:
    return (
        turn.response,
        turn.data,
        turn.missing_fields,
        turn.stage,
        turn.status,
        turn.confidence,
        turn.retrieved,
        turn.degraded,
        turn.answered_by,
        turn.agent_id,
    )


CASES = [
    (beginning, stage, faults, rows)
    for beginning, stage, faults, rows in itertools.product(
        BEGINNINGS,
        ("greeting", "order_status", "returns", "fixed", "people", "none"),
        ((), ("stage_selection", "data_extraction"), ("stage_selection twice", "data_extraction twice")),
        (None, LookUpFailed("bad_status", 502)),
    )
    if rows is None or stage == "returns"
]


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("beginning", "stage", "faults", "rows"), CASES)
def test_turn_cut_off_anywhere_ends_as_if_it_had_not_been(
    beginning: str, stage: str, faults: tuple[str, ...], rows: Any, side_by_side: bool, threads: Threads
) -> None:
    fresh = turns.turn(stages=STAGES, stage=BEGINNINGS[beginning], agents={"a": turns.agent("a", is_default=True)})
    beside = threads if side_by_side else None
    whole = World(stage, faults, rows)
    seen = list(pipeline.run(fresh, whole.ask, beside, whole.look_up))
    for cut in range(len(seen) - 1):
        stored = from_ledger(seen[cut].steps)
        again = World(stage, faults, rows)
        taken_up = pipeline.restored(fresh, stored)
        later = list(pipeline.run(taken_up, again.ask, beside, again.look_up))
        assert result(later[-1]) == result(seen[-1])
        assert later[-1].steps[: len(stored)] == tuple(stored)
        finished = {step.kind for step in seen[cut].steps if step.outcome not in ("speculative", "failed")}
        assert not finished & set(again.calls)
        assert "look_up" not in again.calls or "data_retrieval" not in {step.kind for step in stored}
        # The clock aside, the ledger is that of one uninterrupted turn.
        rows_made = [
            replace(step, latency_ms=0) for step in from_ledger(later[-1].steps) if step.outcome != "speculative"
        ]
        assert rows_made == [
            replace(step, latency_ms=0) for step in from_ledger(seen[-1].steps) if step.outcome != "speculative"
        ]


def run_to(steps: int, before: Turn, world: World) -> tuple[Step, ...]:
    """The first so many rows of the ledger."""
    run = pipeline.run(before, world.ask, None, world.look_up)
    return tuple(from_ledger(next(turn for turn in run if len(turn.steps) >= steps).steps[:steps]))


BEFORE = turns.turn(stages=STAGES)


def test_turn_is_handed_out_only_where_something_is_worth_keeping(threads: Threads) -> None:
    def kept(stage: str) -> list[int]:
        world = World(stage)
        return [len(turn.steps) for turn in pipeline.run(BEFORE, world.ask, None, world.look_up)]

    assert kept("greeting") == [2, 3]
    assert kept("order_status") == [1, 2, 3]
    assert kept("returns") == [1, 2, 3, 4]
    assert kept("fixed") == [3]


def test_extraction_that_is_done_beside_selection_costs_no_extra_stop(threads: Threads) -> None:
    world = World("order_status")
    extracted: list[Any] = []

    def ask(request: llm.Request) -> llm.Answer:
        if request.kind == "stage_selection":
            extracted[0].result(5)
        return world.ask(request)

    class Watched(Threads):
        def start(self, work: Any) -> Any:
            future = super().start(work)
            extracted.append(future)
            return future

    watched = Watched(1)
    before = turns.turn(stages=STAGES, stage=turns.ORDER)
    assert [len(turn.steps) for turn in pipeline.run(before, ask, watched)] == [2, 3]
    watched.close()


def test_usage_counts_every_attempt() -> None:
    world = World("order_status")
    stored = run_to(2, BEFORE, world)
    failed = replace(stored[0], kind="response_generation", outcome="failed", latency_ms=50.0)
    *_, after = pipeline.run(pipeline.restored(BEFORE, (*stored, failed)), world.ask)
    assert after.usage["prompt_tokens"] == 7 * 4
    assert after.timings_ms["response_generation"] >= 50


def test_known_cost_of_a_restored_step_is_added_to_the_rest() -> None:
    *_, whole = pipeline.run(turns.turn(), good())
    stored = from_ledger(whole.steps[:2])
    *_, after = pipeline.run(pipeline.restored(turns.turn(), stored), good())
    assert after.usage == whole.usage


@pytest.mark.parametrize("kind", turns.KINDS)
def test_step_that_failed_is_made_again_and_its_row_stays(kind: str) -> None:
    seen: list[Turn] = []
    with pytest.raises(ModelUnavailable):
        for turn in pipeline.run(turns.turn(), good(**{kind: DOWN})):
            seen.append(turn)
    script = good()
    after = turns.run(pipeline.restored(turns.turn(), from_ledger(seen[-1].steps)), script)
    assert script.kinds() == list(turns.KINDS[turns.KINDS.index(kind) :])
    assert (after.response, after.steps[-1].outcome) == ("It is on its way.", "ok")
    assert (kind, "failed") in turns.outcomes(after)


def test_reply_is_never_restored() -> None:
    *_, whole = pipeline.run(turns.turn(), good())
    again = pipeline.restored(turns.turn(), from_ledger(whole.steps))
    assert (again.response, again.status, again.data) == (None, "active", {"order_number": "4411"})
    script = good(response_generation="Another one.")
    assert turns.run(again, script).response == "Another one."
    assert script.kinds() == ["response_generation"]


def test_stage_that_is_gone_is_selected_again() -> None:
    stored = run_to(2, BEFORE, World("order_status"))
    left = replace(BEFORE, stages=tuple(stage for stage in STAGES if stage.stage_name != "order_status"))
    again = pipeline.restored(left, stored)
    assert (again.stage, again.data, again.steps, again.finished) == (None, {}, stored, ())
    world = World("people")
    *_, after = pipeline.run(again, world.ask)
    assert (after.stage, world.calls) == (PEOPLE, list(turns.KINDS))
    assert after.steps[:2] == stored


def test_stage_under_a_new_name_is_selected_again() -> None:
    stored = run_to(1, BEFORE, World("order_status"))
    renamed = replace(turns.ORDER, stage_name="parcels")
    assert pipeline.restored(replace(BEFORE, stages=(*STAGES[2:], renamed)), stored).finished == ()


def test_none_that_would_lead_elsewhere_now_is_asked_again() -> None:
    stored = run_to(1, BEFORE, World("none"))
    other = turns.stage("other", stage_type="fallback")
    moved = replace(BEFORE, stages=(other, *(stage for stage in STAGES if stage is not turns.FALLBACK)))
    assert pipeline.restored(BEFORE, stored).stage == turns.FALLBACK
    assert pipeline.restored(moved, stored).finished == ()


def test_new_field_of_the_stage_is_asked_for() -> None:
    stored = run_to(2, BEFORE, World("order_status"))
    fields = turns.ORDER_FIELDS["properties"] | {"colour": {"type": "string"}}  # type: ignore[operator]
    changed = turns.stage("order_status", output_schema=turns.ORDER_FIELDS | {"properties": fields})
    again = pipeline.restored(replace(BEFORE, stages=(turns.GREETING, changed)), stored)
    assert (again.finished, again.stage, again.data) == (("stage_selection",), changed, {})


def test_value_that_the_stage_no_longer_takes_is_missing_again() -> None:
    stored = run_to(2, BEFORE, World("order_status"))
    number = turns.ORDER_FIELDS["properties"]["order_number"] | {"pattern": "^[A-Z]+$"}  # type: ignore[index]
    changed = turns.stage(
        "order_status",
        output_schema=turns.ORDER_FIELDS | {"properties": {"order_number": number, "urgent": {"type": "boolean"}}},
    )
    again = pipeline.restored(replace(BEFORE, stages=(turns.GREETING, changed)), stored)
    assert (again.data, again.missing_fields) == ({}, ("order_number",))


def test_value_of_a_turn_that_came_between_stays() -> None:
    stored = run_to(2, BEFORE, World("order_status"))
    told = pipeline.restored(BEFORE, stored).data["order_number"]
    between = replace(BEFORE, data={"order_number": f"{told}0"})
    again = pipeline.restored(between, stored)
    assert (again.finished, again.data) == (("stage_selection", "data_extraction"), between.data)
    # What had to take the place of another value then still does.
    corrected = replace(stored[1], verdict={"order_number": {"status": "corrected"}})
    assert pipeline.restored(between, (stored[0], corrected)).data == {"order_number": told}


def test_what_was_looked_up_by_an_older_value_is_looked_up_again() -> None:
    stored = run_to(3, BEFORE, World("returns"))
    between = replace(BEFORE, data={"order_number": "9999"})
    again = pipeline.restored(between, stored)
    assert (again.finished, again.data, again.retrieved) == (
        ("stage_selection", "data_extraction"),
        between.data,
        None,
    )


def test_what_was_looked_up_by_a_value_that_is_known_already_counts() -> None:
    before = replace(BEFORE, data=pipeline.restored(BEFORE, run_to(2, BEFORE, World("returns"))).data)
    stored = run_to(3, before, World("returns"))
    again = pipeline.restored(before, stored)
    assert (again.data, again.retrieved) == (before.data, {"rows": ROWS})


def test_skipped_step_is_asked_when_there_is_a_choice_now() -> None:
    alone = turns.turn(stages=(turns.ORDER,))
    stored = from_ledger(next(iter(pipeline.run(alone, good()))).steps)
    again = pipeline.restored(turns.turn(), stored)
    script = good()
    turns.run(again, script)
    assert script.kinds() == list(turns.KINDS)


def test_speculative_row_is_never_merged() -> None:
    stored = from_ledger(turns.run(turns.turn(stage=turns.ORDER), good()).steps[:2])
    speculative = (stored[0], replace(stored[1], outcome="speculative"))
    again = pipeline.restored(turns.turn(stage=turns.ORDER), speculative)
    assert (again.data, again.finished) == ({}, ("stage_selection",))


def test_newest_attempt_counts() -> None:
    first = run_to(2, BEFORE, World("order_status"))
    second = run_to(2, BEFORE, World("people"))
    assert pipeline.restored(BEFORE, (*first, *second)).stage == PEOPLE
    # What the first attempt looked at in its own stage is no finding of the second.
    assert pipeline.restored(BEFORE, (*first, second[0])).finished == ("stage_selection",)


def test_look_up_before_a_changed_extraction_is_not_taken_for_its_result() -> None:
    stored = run_to(3, BEFORE, World("returns"))
    assert pipeline.restored(BEFORE, stored).retrieved == {"rows": ROWS}
    extracted_again = replace(stored[1], output=found(order_number=("5511", None)))
    again = pipeline.restored(BEFORE, (*stored, extracted_again))
    assert (again.data, again.retrieved) == ({"order_number": "5511"}, None)


@pytest.mark.parametrize("broken", [None, [], "text", {"stage": 5}, {"reason": "r", "confidence": 1}])
def test_row_of_another_release_is_made_again(broken: Any) -> None:
    stored = run_to(2, BEFORE, World("order_status"))
    for place in range(2):
        odd = [replace(step, output=broken) if at == place else step for at, step in enumerate(stored)]
        assert len(pipeline.restored(BEFORE, odd).finished) == place
    assert pipeline.restored(BEFORE, [replace(stored[0], verdict=broken)]).finished == ()
