"""The reply: what the customer reads, and what becomes of the conversation after it."""

from __future__ import annotations

import re

from nlp import fields, messages
from nlp.llm import Message
from nlp.turn import Turn

KIND = "response_generation"
MAX_CHARACTERS = 32_000

# Control characters but newline and tab, and letters that show nothing but hide text in a reply.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff\U000e0000-\U000e007f]")


def prompt(turn: Turn) -> tuple[Message, ...]:
    """The messages: the agent's instructions and the stage, then what is known, missing and looked up."""
    context = {
        "business": messages.business(turn.business),
        "agent": messages.agent(turn.agent),
        "stage": messages.stage_with_examples(turn.stage_or_best),
        "fields": fields.descriptions(turn.output_schema),
    }
    state = {"data": turn.data, "missing_fields": list(turn.missing_fields), "retrieved": messages.retrieved(turn)}
    return messages.build(KIND, turn, context, state)


def answer_schema(_turn: Turn) -> None:
    """None: a reply is free text."""


def apply(turn: Turn, answer: str) -> Turn:
    """The turn with its reply, cut at MAX_CHARACTERS, and with what the conversation becomes by it."""
    return turn.changed(response=cleaned(answer)[:MAX_CHARACTERS], status=_status(turn), verdict=None)


def cleaned(text: str) -> str:
    """The text without what cannot be seen."""
    return visible(text).strip()


def visible(text: str) -> str:
    """A piece of a text without what cannot be seen, its blanks left as they are."""
    return _INVISIBLE.sub("", text)


def fixed_text(turn: Turn) -> str | None:
    """The stage's own reply that needs no model, filled in; None when it has none."""
    return _own_text(turn, "fixed_text")


def fallback_text(turn: Turn) -> str | None:
    """The stage's reply for when the model cannot be used, filled in; None when it has none."""
    return _own_text(turn, "fallback_text")


def _own_text(turn: Turn, name: str) -> str | None:
    text = turn.stage_or_best.response_generation.get(name)
    return messages.render(text, turn).strip() or None if text else None


def _status(turn: Turn) -> str:
    if turn.stage_or_best.stage_type == "handoff" or (turn.agent is not None and turn.agent.agent_type == "human"):
        return "paused"
    if turn.stage_or_best.stage_type == "closing" and not turn.missing_fields:
        return "completed"
    return "active"
