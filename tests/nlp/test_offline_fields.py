"""What the offline model finds in a customer's words, and what it leaves alone."""

import time
from typing import Any

import pytest

from tests.nlp import offline_calls as calls

TEXT = {"type": "string"}
ORDER_NUMBER = {"type": "string", "description": "Order number (pattern: ^[0-9]{4,}$)"}
GUESTS = {"type": "integer", "description": "Number of guests (minimum: 1) (maximum: 8)"}


def field(description: str, kind: str = "string", **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


@pytest.mark.parametrize(
    ("name", "schema", "message", "value", "quote"),
    [
        ("order_number", ORDER_NUMBER, "Where is order #4411?", "4411", "4411"),
        ("order_number", ORDER_NUMBER, "My phone is 5551234567, the order number is 4411", "4411", "4411"),
        ("order_number", ORDER_NUMBER, "not 4411 but 4412", "4412", "4412"),
        (
            "account",
            field("(pattern: ^[A-Z]{2}[0-9]{2}( [0-9]{4}){2}$)"),
            "it is DE12 3456 7890",
            *2 * ["DE12 3456 7890"],
        ),
        ("day", field("Day (format: date)"), "on 2026-12-24 please", "2026-12-24", "2026-12-24"),
        ("day", field("Day (format: date)"), "March 5th, 1990", "1990-03-05", "March 5th, 1990"),
        ("day", field("Day (format: date)"), "24.12.2026", "2026-12-24", "24.12.2026"),
        ("at", field("Call at (format: time)"), "call me at 5:30 pm", "17:30:00", "5:30 pm"),
        ("at", field("At (format: date-time)"), "2026-12-24T10:00:00Z", *2 * ["2026-12-24T10:00:00Z"]),
        ("mail", field("(format: email)"), "Write to ann@example.org.", *2 * ["ann@example.org"]),
        (
            "site",
            field("(format: uri)"),
            "see https://example.org/x?y=1!",
            *2 * ["https://example.org/x?y=1"],
        ),
        (
            "ref",
            field("(format: uuid)"),
            "0b1d0000-0000-4000-8000-000000000001.",
            *2 * ["0b1d0000-0000-4000-8000-000000000001"],
        ),
        ("guests", GUESTS, "a table for two people at 7 pm", 2, "two"),
        ("quantity", field("How many lamps", "integer"), "I would like three lamps", 3, "three"),
        ("price", field("Highest price", "number"), "up to $1,250.50", 1250.5, "$1,250.50"),
        ("amount", field("Amount to pay"), "send eight hundred dollars", *2 * ["eight hundred dollars"]),
        (
            "size",
            field("Size", enum=["small", "large", "extra large"]),
            "The EXTRA LARGE one",
            "extra large",
            "EXTRA LARGE",
        ),
        ("lamps", field("Number of lamps", enum=["1", "2", "3"]), "two lamps please", "2", "two"),
        ("gift_wrap", field("Gift wrap", "boolean"), "No gift wrap, please", False, "No gift wrap, please"),
        (
            "gift_wrap",
            field("Gift wrap", enum=["True", "False"]),
            "I want gift wrap",
            "True",
            "I want gift wrap",
        ),
        ("city", field("City"), "I live in Berlin now", "Berlin", "Berlin"),
        ("full_name", field("Name"), "My full name is Maria Lopez.", "Maria Lopez", "Maria Lopez"),
        ("order_id", TEXT, "My order id is AB-1234", "AB-1234", "AB-1234"),
        ("date", field("Date of the visit"), "Could I come next Friday?", "next Friday", "next Friday"),
        ("time", field("Time of the visit"), "around half past six", "half past six", "half past six"),
        (
            "problem",
            field("What went wrong"),
            "Hello. The shade arrived broken in two. Help?",
            *2 * ["The shade arrived broken in two."],
        ),
    ],
)
def test_value_is_found_with_the_customers_exact_words(
    name: str, schema: dict[str, Any], message: str, value: object, quote: str
) -> None:
    assert calls.extract({name: schema}, message)[name] == (value, quote)


@pytest.mark.parametrize(
    ("name", "schema", "message"),
    [
        ("order_number", ORDER_NUMBER, "Where is my order?"),
        ("order_number", ORDER_NUMBER, "order 12"),
        ("guests", GUESTS, "12 guests"),
        ("guests", GUESTS, "at 7 pm on the 3rd"),
        ("day", field("Day (format: date)"), "on 03/04/2026"),
        ("day", field("Day (format: date)"), "tomorrow"),
        ("mail", field("(format: email)"), "my mail is ann at example"),
        ("account_type", field("Account", enum=["checking", "savings"]), "please check my balance"),
        ("live_music", field("Live music", "boolean"), "Do you have live music?"),
        ("city", field("City"), "Please help me in this matter"),
        ("city", field("City"), "Thank you!"),
    ],
)
def test_doubtful_value_stays_null(name: str, schema: dict[str, Any], message: str) -> None:
    assert calls.extract({name: schema}, message)[name] == (None, None)


@pytest.mark.parametrize(
    ("name", "schema", "question", "message", "value"),
    [
        ("first_name", field("First name"), "What is your first name?", "It's Anna", "Anna"),
        ("city", field("City"), "Which city?", "in milpitas please", "milpitas"),
        ("guests", GUESTS, "How many guests?", "4", 4),
        ("newsletter", field("Newsletter", "boolean"), "Would you like our newsletter?", "Yes please", True),
        ("size", field("Size", enum=["small", "large", "any"]), "Which size?", "I don't care", "any"),
        ("city", field("City"), "Which city?", "I don't know", None),
        ("city", field("City"), "Which city?", "What do you mean?", None),
        ("city", field("City"), "Which city?", "no", None),
    ],
)
def test_bare_answer_counts_right_after_the_question(
    name: str, schema: dict[str, Any], question: str, message: str, value: object
) -> None:
    assert calls.extract({name: schema}, message, [("assistant", question)])[name][0] == value


def test_from_and_to_go_to_their_fields() -> None:
    found = calls.extract({"origin": TEXT, "destination": TEXT}, "I want to go from Oslo to New York")
    assert found == {"origin": ("Oslo", "Oslo"), "destination": ("New York", "New York")}


def test_one_word_is_no_value_for_two_fields() -> None:
    kinds = field("Account", enum=["checking", "savings"])
    found = calls.extract({"account_type": kinds, "recipient_account_type": kinds}, "from my savings account")
    assert found == {"account_type": ("savings", "savings"), "recipient_account_type": (None, None)}


def test_list_and_object_are_filled_with_a_quote_around_all_parts() -> None:
    colours = field("Colours", "array", items={"type": ["string", "null"], "enum": ["red", "green", "blue", None]})
    address = {
        "type": "object",
        "properties": {
            "city": {"type": ["string", "null"]},
            "zip_code": {"type": ["string", "null"], "description": "(pattern: ^[0-9]{5}$)"},
        },
    }
    assert calls.extract({"colours": colours}, "red and blue")["colours"] == (["red", "blue"], "red and blue")
    found = calls.extract({"address": address}, "I live in Berlin, zip 10115.")["address"]
    assert found == ({"city": "Berlin", "zip_code": "10115"}, "Berlin, zip 10115")


def test_either_schema_of_an_alternative_may_match() -> None:
    amount = {"anyOf": [{"type": ["integer", "null"]}, {"type": ["string", "null"], "enum": ["all", None]}]}
    assert calls.extract({"amount": {**amount, "description": "Amount"}}, "take all")["amount"] == (
        "all",
        "all",
    )


def test_earlier_message_fills_what_is_still_unknown_only() -> None:
    history = [("user", "order number 4411 please"), ("assistant", "One moment.")]
    assert calls.extract({"order_number": ORDER_NUMBER}, "well?", history)["order_number"] == ("4411", "4411")
    known = {"order_number": "5000"}
    assert calls.extract({"order_number": ORDER_NUMBER}, "well?", history, known)["order_number"] == (
        None,
        None,
    )


def test_words_of_the_assistant_are_never_taken() -> None:
    history = [("user", "hi"), ("assistant", "Is it order 4411 in Berlin?")]
    found = calls.extract({"order_number": ORDER_NUMBER, "city": TEXT}, "no idea", history)
    assert found == {"order_number": (None, None), "city": (None, None)}


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(", "(?=x)", "(a{1000}){1000}", ""])
def test_hostile_pattern_costs_next_to_nothing(pattern: str) -> None:
    started = time.perf_counter()
    calls.extract({"code": field(f"Code (pattern: {pattern})")}, "a" * 31_999 + "!")
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize(
    "message",
    [
        "a" * 32_000,
        "A" * 32_000,
        "Aa " * 10_666,
        "1 " * 16_000,
        "1" * 32_000,
        "$1," * 10_666,
        "a@" * 16_000,
        "12:" * 10_666,
        "1-" * 16_000,
        "one hundred and " * 2_000,
        "of the " * 4_571,
        "\u0301\u202e\u200d🏴" * 8_000,
        "?!. \n" * 6_400,
        "order_number is " * 2_000,
        " " * 32_000,
    ],
)
def test_huge_and_odd_messages_are_answered_quickly(message: str) -> None:
    fields = {
        "order_number": ORDER_NUMBER,
        "city": field("City"),
        "problem": field("What went wrong"),
        "size": field("Size", enum=["small", "extra large", "1", "2"]),
        "day": field("Day"),
        "time": field("Time"),
        "amount": field("Amount", "number"),
        "full_name": field("Name"),
        "mail": field("(format: email)"),
    }
    # Of this thread alone: a busy machine must not count.
    started = time.thread_time()
    calls.extract(fields, message, [("assistant", "Which city and what full name?")])
    assert time.thread_time() - started < 1.0
