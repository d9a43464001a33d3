"""Which stage the offline model picks, and when it picks none."""

import pytest

from tests.nlp import offline_calls as calls

GREETING = calls.stage("greeting", "The customer says hello.", "conversation", "Customer: good day")
STATUS = calls.stage(
    "order_status",
    "The customer asks where an order or parcel is.",
    examples="Customer: where is my parcel?\nAssistant: What is your order number?",
)
RETURNS = calls.stage("return_lamp", "The customer wants to return a lamp.", examples="Customer: I send it back")
FALLBACK = calls.stage("anything_else", "Everything else.", "fallback")
STAGES = [GREETING, STATUS, RETURNS, FALLBACK]
ASKED = [("user", "where is my parcel?"), ("assistant", "What is your order number?")]


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Hi there!", "greeting"),
        ("Hello, where is my order?", "order_status"),
        ("I would like to return this lamp", "return_lamp"),
        ("Thanks, and where is my parcel?", "order_status"),
        ("Who won the football match yesterday?", "anything_else"),
    ],
)
def test_first_message_finds_its_stage(message: str, name: str) -> None:
    answer = calls.select(STAGES, message)
    assert answer["stage"] == name
    assert 0.0 <= answer["confidence"] <= 1.0
    assert list(answer) == ["reason", "stage", "confidence"]


@pytest.mark.parametrize("message", ["4411", "It's 4411", "yes", "the one from last week", "ok, no problem"])
def test_answer_to_the_question_stays_in_the_stage(message: str) -> None:
    assert calls.select(STAGES, message, "order_status", ASKED)["stage"] == "order_status"


def test_new_subject_leaves_the_stage_even_after_a_question() -> None:
    message = "Forget it, I want to return the lamp instead"
    assert calls.select(STAGES, message, "order_status", ASKED)["stage"] == "return_lamp"


def test_yes_to_an_offer_moves_to_what_was_offered() -> None:
    history = [
        ("user", "where is my parcel?"),
        ("assistant", "It is lost. Would you like to return the lamp?"),
    ]
    assert calls.select(STAGES, "yes please", "order_status", history)["stage"] == "return_lamp"


def test_thanks_and_goodbye_fit_no_stage_without_one_for_them() -> None:
    assert calls.select(STAGES, "Thank you, bye!", "order_status", ASKED)["stage"] == "none"
    closing = calls.stage("goodbye", "The conversation ends.", "closing")
    assert calls.select([*STAGES, closing], "Thank you, bye!", "order_status", ASKED)["stage"] == "goodbye"


def test_nothing_that_fits_is_none_without_a_fallback_stage() -> None:
    assert calls.select([GREETING, STATUS], "Who won the football match yesterday?")["stage"] == "none"


def test_clear_message_is_answered_with_more_confidence_than_a_vague_one() -> None:
    clear = calls.select(STAGES, "where is my parcel?")["confidence"]
    vague = calls.select(STAGES, "an order of one lamp that I might return")["confidence"]
    assert clear > vague


def test_stage_outside_the_enum_is_never_chosen() -> None:
    context = {"business": calls.BUSINESS, "stages": STAGES}
    asked = calls.messages(context, {"current_stage": "return_lamp", "data": {}}, "return a lamp")
    schema = calls.response_format("stage_selection", calls.selection_schema(["greeting"]))
    content = calls.create(asked, response_format=schema).choices[0].message.content
    assert '"none"' in content or '"greeting"' in content
