"""A small tenant and its turns, and a scripted model, for tests of what a turn becomes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from db.agents import Agent
from db.businesses import Business
from db.stages import Stage
from db.templates import Template
from nlp import llm, pipeline
from nlp.errors import ModelUnavailable
from nlp.side_by_side import Threads
from nlp.turn import Turn, Utterance

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KINDS = ("stage_selection", "data_extraction", "response_generation")
ORDER_FIELDS = {
    "type": "object",
    "properties": {
        "order_number": {"type": "string", "pattern": "^[0-9]{4,}$", "description": "Number of the order"},
        "urgent": {"type": "boolean"},
    },
    "required": ["order_number"],
}
NO_FIELDS = {"type": "object", "properties": {}}
Reply = str | dict[str, Any] | llm.Answer | ModelUnavailable


def stage(name: str, **changes: Any) -> Stage:
    """A stage called `name`, without fields unless `output_schema` is given."""
    parts: dict[str, Any] = {kind: {"prompt": {"template_id": f"icmp.{kind}"}} for kind in KINDS}
    parts["data_extraction"] |= {"output_schema": changes.pop("output_schema", NO_FIELDS)}
    parts["data_extraction"] |= {"require_quote": changes.pop("require_quote", False)}
    parts["stage_selection"] |= {"next_stages": changes.pop("next_stages", None)}
    for key in ("fixed_text", "fallback_text"):
        parts["response_generation"][key] = changes.pop(key, None)
    settings = changes.pop("model_settings", {})
    for kind in KINDS:
        parts[kind]["prompt"]["model_settings"] = settings
    row: dict[str, Any] = {
        "stage_id": f"id-{name}",
        "business_id": "b1",
        "agent_id": None,
        "stage_name": name,
        "stage_type": "information",
        "stage_description": f"The customer is at {name}.",
        "data_retrieval": {"method": "none", "config": {}},
        "stage_selection_example_conversations": "",
        "created_at": AT,
        "updated_at": AT,
    }
    return Stage(**(row | parts | changes))


def agent(agent_id: str, **changes: Any) -> Agent:
    """An agent with that id."""
    row: dict[str, Any] = {
        "agent_id": agent_id,
        "business_id": "b1",
        "agent_name": f"Agent {agent_id}",
        "agent_description": "Answers letters",
        "agent_type": "ai",
        "instructions": "Be kind.",
        "model_settings": {},
        "is_default": False,
        "created_at": AT,
        "updated_at": AT,
    }
    return Agent(**(row | changes))


def template(template_id: str, text: str) -> Template:
    """A business's own template."""
    return Template(template_id, "b1", template_id.removeprefix("icmp."), 3, text, [], AT)


BUSINESS = Business("b1", "o1", "Harbour Lamps", "Lamps by mail", None, None, None, {}, AT, AT, [], [], [])
TEMPLATES = {
    f"icmp.{kind}": template(f"icmp.{kind}", f"Do {kind} for {{{{ business.business_name }}}}.") for kind in KINDS
}
GREETING = stage("greeting")
ORDER = stage("order_status", output_schema=ORDER_FIELDS)
FALLBACK = stage("anything_else", stage_type="fallback")
STAGES = (GREETING, ORDER, FALLBACK)


def turn(message: str = "Where is my order 4411?", **changes: Any) -> Turn:
    """A first message to the tenant, changed as wanted."""
    first = Turn(
        business=BUSINESS,
        agents={},
        stages=STAGES,
        templates=TEMPLATES,
        user={"name": "Pat"},
        history=(),
        message=message,
        metadata={},
        now="2026-01-02T03:04:05Z",
        model="gpt-5.4-mini",
    )
    return replace(first, **changes)


def said(*lines: str) -> tuple[Utterance, ...]:
    """A history from lines such as "user: hello"."""
    return tuple(Utterance(*line.split(": ", 1)) for line in lines)


def chosen(name: str, confidence: float = 0.9) -> dict[str, Any]:
    """What the model answers to stage selection."""
    return {"reason": "it fits", "stage": name, "confidence": confidence}


def found(**fields: tuple[Any, str | None]) -> dict[str, Any]:
    """What the model answers to data extraction: field=(value, quote); the order's fields are null otherwise."""
    told = {name: fields.pop(name, (None, None)) for name in ORDER_FIELDS["properties"]} | fields
    return {name: {"value": value, "quote": quote} for name, (value, quote) in told.items()}


class Script:
    """A model that answers each kind of call with its next line; `requests` has what it was asked."""

    def __init__(self, **lines: Reply | list[Reply]) -> None:
        self._lines = {kind: list(line) if isinstance(line, list) else [line] for kind, line in lines.items()}
        self._lock = threading.Lock()
        self.requests: list[llm.Request] = []

    def __call__(self, request: llm.Request) -> llm.Answer:
        with self._lock:
            self.requests.append(request)
            lines = self._lines[request.kind]
            line = lines.pop(0) if len(lines) > 1 else lines[0]
        if isinstance(line, ModelUnavailable):
            raise line
        if isinstance(line, llm.Answer):
            return line
        text = line if isinstance(line, str) else json.dumps(line)
        return llm.Answer(text, model="gpt-5.4-mini", prompt_tokens=100, completion_tokens=10)

    def kinds(self) -> list[str]:
        return [request.kind for request in self.requests]


def run(before: Turn, ask: Callable[[llm.Request], llm.Answer], threads: Threads | None = None) -> Turn:
    """The turn after its last step."""
    return list(pipeline.run(before, ask, threads))[-1]


def outcomes(after: Turn) -> list[tuple[str, str]]:
    """(kind, outcome) of each step in the ledger."""
    return [(step.kind, step.outcome) for step in after.steps]


DOWN = ModelUnavailable("server_error", retry_after_s=7)
GIVEN = found(order_number=("4411", "4411"))
GIVEN_ALONE = {"order_number": GIVEN["order_number"]}
IN_ORDER = turn(stage=ORDER)


def good(**lines: Any) -> Script:
    """A model that answers well, but for the lines given."""
    return Script(
        **{
            "stage_selection": chosen("order_status"),
            "data_extraction": GIVEN,
            "response_generation": "It is on its way.",
        }
        | lines
    )
