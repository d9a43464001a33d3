"""How the offline model speaks: a demo shop's conversation, and replies that invent nothing."""

from typing import Any

from tests.nlp import offline_calls as calls

FIELDS = {"order_number": {"type": "string", "description": "The order number (pattern: ^[0-9]{4,}$)"}}
DESCRIPTIONS = {"order_number": "The order number"}
GREETING = calls.stage("greeting", "The customer says hello.", "conversation")
STATUS = calls.stage(
    "order_status",
    "The customer asks where an order or parcel is.",
    examples="Customer: where is my parcel?\nAssistant: Your order {order_number} is {status}.",
)
COMPLAINT = calls.stage(
    "complaint",
    "The customer complains: a lamp is broken or wrong.",
    examples="Customer: the lamp is broken\nAssistant: I am sorry about that. We will send you a new one.",
)
STAGES = [GREETING, STATUS, COMPLAINT]
ORDERS = {"4411": {"order_number": "4411", "status": "shipped"}}


class Shop:
    """The platform's part of a conversation, as small as it can be."""

    def __init__(self) -> None:
        self.history: list[tuple[str, str]] = []
        self.data: dict[str, Any] = {}
        self.stage = GREETING

    def say(self, message: str) -> str:
        picked = calls.select(STAGES, message, self.stage["stage_name"], self.history)["stage"]
        self.stage = next((stage for stage in STAGES if stage["stage_name"] == picked), self.stage)
        asks = self.stage is STATUS
        if asks:
            found = calls.extract(FIELDS, message, self.history, self.data)
            self.data |= {name: value for name, (value, _) in found.items() if value is not None}
        missing = [name for name in FIELDS if asks and name not in self.data]
        retrieved = {"rows": [ORDERS[self.data["order_number"]]]} if asks and not missing else None
        reply = calls.respond(
            self.stage,
            message,
            self.history,
            DESCRIPTIONS if asks else {},
            data=self.data,
            missing_fields=missing,
            retrieved=retrieved,
        )
        self.history += [("user", message), ("assistant", reply)]
        return reply


def test_demo_shop_greets_asks_answers_and_is_sorry() -> None:
    shop = Shop()
    assert shop.say("Hello!") == "Hello and welcome to Harbour Lamps! How can I help you?"
    assert shop.say("Where is my parcel?") == "Sure, I can help with that. Could you tell me the order number?"
    assert shop.say("It's 4411") == "Your order 4411 is shipped."
    assert shop.say("The lamp is broken!") == "I am sorry about that. We will send you a new one."
    assert shop.say("Thanks, bye").startswith("You are welcome")


def test_missing_fields_are_asked_for_in_the_words_of_their_descriptions() -> None:
    fields = {"size": "", "gift": "Whether it is a gift", "date": "Date of the visit", "who": "what happened"}
    ask = [calls.respond(STATUS, "x", fields=fields, missing_fields=[name]) for name in fields]
    assert [reply.partition("Could you tell me ")[2] for reply in ask] == [
        "your size?",
        "whether it is a gift?",
        "the date of the visit?",
        "what happened?",
    ]
    assert "your size and whether it is a gift?" in calls.respond(
        STATUS, "x", fields=fields, missing_fields=["size", "gift"]
    )


def test_value_just_given_is_acknowledged_before_the_next_question() -> None:
    fields = {**DESCRIPTIONS, "postcode": "The postcode"}
    reply = calls.respond(STATUS, "4411", fields=fields, data={"order_number": "4411"}, missing_fields=["postcode"])
    assert reply == "Thank you, I have noted: order number 4411. Could you tell me the postcode?"


def test_rows_are_told_and_the_first_three_of_many() -> None:
    rows = [{"name": f"lamp {number}", "price": number, "lamp_id": "x", "note": None} for number in range(5)]
    reply = calls.respond(calls.stage("lamps", "Which lamps there are."), "which lamps?", retrieved={"rows": rows})
    assert "1. name: lamp 0; price: 0" in reply
    assert "lamp 2" in reply
    assert "lamp 3" not in reply
    assert "2 more" in reply


def test_no_rows_and_a_failed_look_up_are_said_plainly() -> None:
    data = {"order_number": "4411"}
    nothing = calls.respond(STATUS, "4411", fields=DESCRIPTIONS, data=data, retrieved={"rows": []})
    assert "found nothing for order number 4411" in nothing
    failed = calls.respond(STATUS, "4411", fields=DESCRIPTIONS, data=data, retrieved={"error": "timeout at 10.0.0.7"})
    assert "could not look that up" in failed
    assert "10.0.0.7" not in failed


def test_example_line_with_an_unknown_placeholder_or_a_foreign_figure_is_not_used() -> None:
    examples = (
        "Customer: where is my lamp?\nAssistant: It arrives on <day>.\n"
        "Customer: where is my lamp?\nAssistant: It arrives on the 24th."
    )
    reply = calls.respond(calls.stage("delivery", "Where a lamp is.", examples=examples), "where is my lamp?")
    assert "24" not in reply
    assert "<" not in reply


def test_placeholders_of_all_three_forms_are_filled_from_the_data() -> None:
    for placeholder in ("{colour}", "{{ data.colour }}", "<colour>"):
        stage = calls.stage("paint", "Paint.", examples=f"Customer: paint it\nAssistant: We paint it {placeholder}.")
        assert calls.respond(stage, "paint it", data={"colour": "red"}) == "We paint it red."


def test_values_that_look_like_placeholders_are_not_filled_again() -> None:
    stage = calls.stage("paint", "Paint.", examples="Customer: paint it\nAssistant: We paint it {colour}.")
    data = {"colour": "{secret}", "secret": "x"}
    assert calls.respond(stage, "paint it", data=data) == "We paint it {secret}."


def test_handoff_and_fallback_say_what_they_are() -> None:
    assert "colleague" in calls.respond(calls.stage("people", "Wants a person.", "handoff"), "a person please")
    assert "other words" in calls.respond(calls.stage("other", "Other.", "fallback"), "blah blah blah")
