"""Situation awareness: which stage the conversation is in now."""

from __future__ import annotations

from typing import Any

from db.stages import Stage
from nlp import messages
from nlp.llm import Message
from nlp.turn import Turn

KIND = "stage_selection"
NONE = "none"


def prompt(turn: Turn) -> tuple[Message, ...]:
    """The messages; template and settings are the expected stage's."""
    context = {
        "business": messages.business(turn.business),
        "stages": [messages.stage_with_examples(stage) for stage in turn.reachable],
    }
    state = {"current_stage": None if turn.stage is None else turn.stage.stage_name, "data": turn.data}
    return messages.build(KIND, turn, context, state)


def answer_schema(turn: Turn) -> dict[str, Any]:
    """The reason stands before the choice, so that the choice follows from it."""
    names = [stage.stage_name for stage in turn.reachable]
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string"},
            "stage": {"type": "string", "enum": [*names, NONE]},
            "confidence": {"type": "number"},
        },
        "required": ["reason", "stage", "confidence"],
        "additionalProperties": False,
    }


def apply(turn: Turn, answer: dict[str, Any] | None) -> Turn:
    """The turn in the chosen stage; without an answer it stays where it is, as with `none`."""
    name = NONE if answer is None else answer["stage"]
    chosen = next((stage for stage in turn.reachable if stage.stage_name == name), None) or _otherwise(turn)
    confidence = None if answer is None else min(1.0, max(0.0, float(answer["confidence"])))
    verdict = {"stage": chosen.stage_name, "kept": turn.stage is not None and chosen.stage_id == turn.stage.stage_id}
    return enter(turn, chosen).changed(confidence=confidence, verdict=verdict)


def enter(turn: Turn, stage: Stage) -> Turn:
    """The turn in this stage, with the agent who answers there."""
    return turn.changed(stage=stage, agent_id=_agent_id(turn, stage))


def _otherwise(turn: Turn) -> Stage:
    if turn.stage is not None:
        return turn.stage
    fallback = (stage for stage in turn.stages if stage.stage_type == "fallback")
    return next(fallback, turn.ranking[0])


def _agent_id(turn: Turn, chosen: Stage) -> str | None:
    if chosen.agent_id is not None:
        return chosen.agent_id
    # People who were asked in one stage do not go along into the next: there the default agent speaks again.
    is_kept = turn.agent is not None and turn.agent.agent_type != "human"
    default = (agent.agent_id for agent in turn.agents.values() if agent.is_default)
    return turn.agent_id if is_kept else next(default, None)
