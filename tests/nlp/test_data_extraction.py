"""What becomes of the data: a Turn in, a Turn out."""

from __future__ import annotations

from typing import Any

import pytest

from nlp import data_extraction
from nlp.turn import Turn
from tests.nlp import turns


def before(message: str = "Where is my order 4411?", **changes: Any) -> Turn:
    return turns.turn(message, **({"stage": turns.ORDER} | changes))


def test_value_with_its_quote_is_given() -> None:
    after = data_extraction.apply(before(), turns.found(order_number=("4411", "order 4411")))
    assert after.data == {"order_number": "4411"}
    assert after.missing_fields == ()
    assert after.verdict == {"order_number": {"status": "given"}, "urgent": {"status": "missing"}}


def test_value_without_a_quote_is_inferred_and_merged() -> None:
    after = data_extraction.apply(before(), turns.found(order_number=("4411", None)))
    assert after.data == {"order_number": "4411"}
    assert after.verdict["order_number"]["status"] == "inferred"


@pytest.mark.parametrize("quote", ["", "   ", "order 9999"])
def test_quote_that_nobody_said_is_no_quote(quote: str) -> None:
    after = data_extraction.apply(before(), turns.found(order_number=("4411", quote)))
    assert after.verdict["order_number"]["status"] == "inferred"


@pytest.mark.parametrize(
    ("message", "quote"),
    [
        ("It’s  order\n4411", "it's ORDER 4411"),
        ("Bestellung „4411“ bitte", 'bestellung "4411"'),
        ("number 4411", "NUMBER ４４１１"),
        ("Straße 4411", "STRASSE 4411"),
    ],
)
def test_quote_is_compared_without_case_spaces_and_typography(message: str, quote: str) -> None:
    after = data_extraction.apply(before(message), turns.found(order_number=("4411", quote)))
    assert after.verdict["order_number"]["status"] == "given"


def test_quote_may_come_from_the_history_of_any_role() -> None:
    history = turns.said("user: about 4411", "ai: Order 4411, right?")
    after = data_extraction.apply(before("yes", history=history), turns.found(order_number=("4411", "Order 4411,")))
    assert after.verdict["order_number"]["status"] == "given"


def test_quotes_may_come_from_messages_in_any_order() -> None:
    history = turns.said("user: order 4411", "ai: Is it urgent?")
    for number, urgent in (("order 4411", "hurry"), ("hurry", "order 4411"), ("urgent?", "urgent?")):
        answer = turns.found(order_number=("4411", number), urgent=(True, urgent))
        after = data_extraction.apply(before("please hurry", history=history), answer)
        assert {found["status"] for found in after.verdict.values()} == {"given"}, (number, urgent)


def test_quote_does_not_reach_over_two_messages() -> None:
    after = data_extraction.apply(
        before("11 it is", history=turns.said("user: 44")), turns.found(order_number=("4411", "44 11"))
    )
    assert after.verdict["order_number"]["status"] == "inferred"


def test_required_quote_keeps_an_inferred_value_out() -> None:
    strict = turns.stage("order_status", output_schema=turns.ORDER_FIELDS, require_quote=True)
    after = data_extraction.apply(before(stage=strict), turns.found(order_number=("4411", None)))
    assert (after.data, after.missing_fields) == ({}, ("order_number",))
    assert after.verdict["order_number"]["status"] == "inferred"


def test_required_quote_accepts_what_is_known_already() -> None:
    strict = turns.stage("order_status", output_schema=turns.ORDER_FIELDS, require_quote=True)
    after = data_extraction.apply(
        before(stage=strict, data={"order_number": "4411"}), turns.found(order_number=("4411", None))
    )
    assert (after.data, after.missing_fields) == ({"order_number": "4411"}, ())
    assert after.verdict["order_number"] == {"status": "inferred"}


def test_null_never_erases() -> None:
    after = data_extraction.apply(before(data={"order_number": "4411", "other": 1}), turns.found())
    assert after.data == {"order_number": "4411", "other": 1}


def test_blank_text_counts_as_null() -> None:
    after = data_extraction.apply(before(data={"order_number": "4411"}), turns.found(order_number=(" ", " ")))
    assert after.data == {"order_number": "4411"}
    assert after.verdict["order_number"] == {"status": "missing"}


def test_invalid_value_leaves_the_earlier_one() -> None:
    after = data_extraction.apply(before(data={"order_number": "4411"}), turns.found(order_number=("12", "12")))
    assert after.data == {"order_number": "4411"}
    assert after.verdict["order_number"] == {
        "status": "invalid",
        "fault": "'12' does not match the pattern '^[0-9]{4,}$'",
    }


def test_other_value_corrects_the_earlier_one() -> None:
    after = data_extraction.apply(before(data={"order_number": "1234"}), turns.found(order_number=("4411", "4411")))
    assert after.data == {"order_number": "4411"}
    assert after.verdict["order_number"] == {"status": "corrected"}


def test_false_is_a_value_and_differs_from_nought() -> None:
    after = data_extraction.apply(before(data={"urgent": 0}), turns.found(urgent=(False, None)))
    assert after.data["urgent"] is False
    assert after.verdict["urgent"] == {"status": "corrected"}


def test_no_answer_keeps_the_data_and_tells_what_is_missing() -> None:
    after = data_extraction.apply(before(data={"urgent": True}), None)
    assert (after.data, after.missing_fields) == ({"urgent": True}, ("order_number",))


def test_missing_fields_stand_in_the_schemas_order() -> None:
    names = ["zip", "city", "name"]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    stage = turns.stage("address", output_schema=schema)
    after = data_extraction.apply(before(stage=stage), {name: {"value": None, "quote": None} for name in names})
    assert after.missing_fields == ("zip", "city", "name")


def test_unknown_parts_of_a_nested_value_are_left_out() -> None:
    address = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "zip": {"type": "string"}},
        "required": ["city"],
    }
    stage = turns.stage("address", output_schema={"type": "object", "properties": {"address": address}})
    answer = {"address": {"value": {"city": "Ulm", "zip": None}, "quote": "Ulm"}}
    assert data_extraction.apply(before("Ulm", stage=stage), answer).data == {"address": {"city": "Ulm"}}


def test_every_field_must_be_answered() -> None:
    schema = data_extraction.answer_schema(before())
    assert schema["required"] == ["order_number", "urgent"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["order_number"] == {
        "type": "object",
        "description": "Number of the order (pattern: ^[0-9]{4,}$)",
        "properties": {"value": {"type": ["string", "null"]}, "quote": {"type": ["string", "null"]}},
        "required": ["value", "quote"],
        "additionalProperties": False,
    }
