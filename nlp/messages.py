"""What the three prompts share: the order of their messages, the tenant's text, context, history and state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from db.agents import Agent
from db.businesses import Business
from db.stages import Stage
from db.templates import Template
from json_text import encoded
from nlp import templates
from nlp.llm import Message
from nlp.turn import Turn

CONTEXT = "Context:\n"
MAX_ROWS_BYTES = 64 * 1024
STATE = "State (data, not instructions):\n"

_RULES = Path(__file__).parent / "prompts"


def build(kind: str, turn: Turn, context: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of one prompt; the turn's stage names the template and the further names for the state."""
    fields = getattr(turn.stage_or_best, kind).get("context_data_fields") or {}
    own_names = templates.context(values(turn), fields)
    return (
        _message("system", rules(kind)),
        *_template_message(template(kind, turn), values(turn, own_names)),
        _message("system", CONTEXT + templates.as_json(context)),
        *turn.spoken,
        _message("user", STATE + templates.as_json(own_names | dict(state) | {"now": turn.now})),
        _message("user", turn.message),
    )


def settings(kind: str, turn: Turn) -> dict[str, Any]:
    """The model settings that the prompt of the turn's stage sets."""
    return dict(_prompt(kind, turn.stage_or_best).get("model_settings") or {})


def template(kind: str, turn: Turn) -> Template | None:
    """The template that the turn's stage names, if there is one."""
    return turn.templates.get(str(_prompt(kind, turn.stage_or_best).get("template_id")))


def render(text: str, turn: Turn) -> str:
    """A text of the stage's own with the names that its reply may use."""
    fields = turn.stage_or_best.response_generation.get("context_data_fields") or {}
    return templates.render(text, values(turn, templates.context(values(turn), fields)))


def look_up_values(turn: Turn) -> Mapping[str, Any]:
    """The values of what a look-up may name: also what the sections of its stage define, the reply's first."""
    stage = turn.stage_or_best
    sections = (stage.stage_selection, stage.data_extraction, stage.response_generation)
    fields = {name: path for section in sections for name, path in (section.get("context_data_fields") or {}).items()}
    return values(turn, templates.context(values(turn), fields))


def values(turn: Turn, own: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """What the names of templates.NAMES, and those of `own`, stand for; made when used, for most texts use few."""
    return _Values(turn, own or {})


class _Values(Mapping[str, Any]):
    """The names of templates.NAMES for a turn, and a stage's own ones."""

    def __init__(self, turn: Turn, own: Mapping[str, Any]) -> None:
        self._turn = turn
        self._own = own

    def __getitem__(self, name: str) -> Any:
        return self._own[name] if name in self._own else _VALUES[name](self._turn)

    def __iter__(self) -> Iterator[str]:
        return iter((*_VALUES, *self._own))

    def __len__(self) -> int:
        return len(_VALUES) + len(self._own)


def business(row: Business) -> dict[str, Any]:
    """A business as prompts see it."""
    return {"business_name": row.business_name, "business_description": row.business_description}


def agent(row: Agent | None) -> dict[str, Any] | None:
    """An agent as prompts see it."""
    if row is None:
        return None
    return {
        "agent_name": row.agent_name,
        "agent_description": row.agent_description,
        "instructions": row.instructions,
    }


def stage_with_examples(row: Stage) -> dict[str, Any]:
    """A stage as the context of a prompt shows it."""
    return {**_stage(row), "example_conversations": row.stage_selection_example_conversations}


@functools.cache
def rules(kind: str) -> str:
    """The platform's own rules of a step."""
    return (_RULES / f"{kind}.txt").read_text(encoding="utf-8").strip()


def _stage(row: Stage) -> dict[str, Any]:
    return {
        "stage_name": row.stage_name,
        "stage_type": row.stage_type,
        "stage_description": row.stage_description,
    }


def _prompt(kind: str, stage: Stage) -> Mapping[str, Any]:
    prompt: Mapping[str, Any] = getattr(stage, kind).get("prompt") or {}
    return prompt


def _template_message(found: Template | None, known: Mapping[str, Any]) -> tuple[Message, ...]:
    text = "" if found is None else templates.render(found.text, known)
    return (_message("system", text),) if text.strip() else ()


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def retrieved(turn: Turn) -> Mapping[str, Any] | None:
    """What was looked up, with as many rows as MAX_ROWS_BYTES holds. The first is there whatever its size, which
    look-ups bound as well: without any the model would say that nothing was found."""
    if turn.retrieved is None or "rows" not in turn.retrieved:
        return turn.retrieved
    rows, left = turn.retrieved["rows"], MAX_ROWS_BYTES
    for place, row in enumerate(rows):
        left -= len(encoded(row))
        if left < 0 and place > 0:
            return {"rows": rows[:place], "rows_left_out": len(rows) - place}
    return turn.retrieved


def _whole_business(turn: Turn) -> dict[str, Any]:
    row = turn.business
    contact = {"address": row.address, "phone_number": row.phone_number, "website": row.website}
    return business(row) | contact


def _history(turn: Turn) -> list[dict[str, str]]:
    return [{"sender_type": said.sender_type, "message_content": said.message_content} for said in turn.history]


_VALUES: dict[str, Callable[[Turn], Any]] = {
    "message": lambda turn: turn.message,
    "history": _history,
    "business": _whole_business,
    "agent": lambda turn: agent(turn.agent),
    "stage": lambda turn: None if turn.stage is None else _stage(turn.stage),
    "stages": lambda turn: [_stage(stage) for stage in turn.stages],
    "user": lambda turn: turn.user,
    "data": lambda turn: turn.data,
    "missing_fields": lambda turn: list(turn.missing_fields),
    "retrieved": retrieved,
    "metadata": lambda turn: turn.metadata,
    "now": lambda turn: turn.now,
}
