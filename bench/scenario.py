"""What is played: one shop with five stages, and its customers' conversations of eight messages each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import cycle
from typing import Any

DESCRIPTION = "An online shop for outdoor clothing, boots and tents with its own repair workshop."
TURNS_PER_CONVERSATION = 8
SWITCH_AT = (
    5  # one of eight messages changes the subject: the share seen in real dialogues (bench/README.md, 57 of 461)
)

_SUBJECTS = {
    "order_status": (
        "The customer asks where an order is, when it arrives, or wants it changed before it leaves.",
        {"order_number": "The number of the order, four digits or more", "postcode": "Where it is sent to"},
        (
            "Hello, what is the status of my order? I have been waiting since last week.",
            "The number on the confirmation is 441187.",
            "It was meant to come to my office and not to my flat.",
            "Could somebody leave it with the neighbours when I am out?",
        ),
    ),
    "returns": (
        "The customer wants to send something back, exchange it for another size or get the money back.",
        {"order_number": "The number of the order, four digits or more", "reason": "What is wrong with the article"},
        (
            "About returns: the jacket is too tight at the shoulders and I would like to send it back.",
            "I bought it with the boots, that was 558203.",
            "Do I have to pay for the parcel myself?",
            "And how long does it take until I see the money?",
        ),
    ),
    "product_advice": (
        "The customer looks for an article and wants advice on size, material or use.",
        {"article": "What is looked for", "budget": "How much it may cost", "size": "The size that is wanted"},
        (
            "I need advice on a product: which tent stands up to a storm on a ridge?",
            "There are two of us and a small dog.",
            "It should not weigh more than 2500 grams.",
            "Is there something like it in green?",
        ),
    ),
    "repair_booking": (
        "The customer has something torn, leaking or broken and wants it mended in the workshop.",
        {"article": "What is broken", "damage": "What is wrong with it", "day": "The day on which it is brought"},
        (
            "Can I make a booking for a repair? The zip of my sleeping bag is torn.",
            "I could bring it on Thursday after work.",
            "It is three winters old, model 20231.",
            "What would it cost if you put in a new one?",
        ),
    ),
    "payment_question": (
        "The customer asks about an invoice, a card that was refused, instalments or a voucher.",
        {"invoice_number": "The number of the invoice", "method": "How it was or shall be paid"},
        (
            "I have a question about a payment: my card was charged twice.",
            "The invoice is 990412, from the third of the month.",
            "One of the two says pending since Monday.",
            "Could you send me a corrected invoice by mail?",
        ),
    ),
}


def stages(business_id: str) -> list[dict[str, Any]]:
    """The bodies that create the stages."""
    return [
        _stage(business_id, name, description, known) for name, (description, known, _) in _SUBJECTS.items()
    ]  # fmt: skip


def subjects() -> dict[str, dict[str, Any]]:
    """Description and fields of each stage by its name, for peers that have a form of their own."""
    return {name: {"description": about, "fields": list(known)} for name, (about, known, _) in _SUBJECTS.items()}


def conversations() -> Iterator[tuple[str, ...]]:
    """Conversations without end, in the same order each time: one subject first, then the next one. One message of
    eight changes the subject, about the share seen in real dialogues (57 of 461, see bench/README.md)."""
    said = [messages for _, _, messages in _SUBJECTS.values()]
    for number in cycle(range(len(said))):
        second = said[(number + 1) % len(said)]
        yield (*said[number], *second)


def new_user() -> str:
    """A customer whom nobody has met."""
    return str(uuid.uuid4())


def _stage(business_id: str, name: str, description: str, known: dict[str, str]) -> dict[str, Any]:
    properties = {field: {"type": "string", "description": words} for field, words in known.items()}
    schema = {"type": "object", "properties": properties, "required": [next(iter(properties))]}
    return {
        "business_id": business_id,
        "stage_name": name,
        "stage_type": "information",
        "stage_description": description,
        "stage_selection": {"prompt": _prompt("stage_selection"), "context_data_fields": {}, "next_stages": None},
        "data_extraction": {
            "prompt": _prompt("data_extraction"), "require_quote": False, "output_schema": schema,
        },
        "data_retrieval": {"method": "prompt_user", "config": {}},
        "response_generation": {
            "prompt": _prompt("response_generation"),
            "context_data_fields": {}, "fixed_text": None, "fallback_text": None,
        },
        "stage_selection_example_conversations": f"Customer: {_SUBJECTS[name][2][0]}",
    }  # fmt: skip


def _prompt(step: str) -> dict[str, Any]:
    return {"template_id": f"icmp.{step}", "model_settings": {}, "input_variables": []}
