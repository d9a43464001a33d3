"""Turn: everything one turn knows. Frozen; each step makes a new one."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from db.agents import Agent
from db.businesses import Business
from db.stages import Stage
from db.templates import Template
from db.turns import Step
from nlp import similarity

KINDS = ("stage_selection", "data_extraction", "data_retrieval", "response_generation")
CHARACTERS_PER_TOKEN = 4
MAX_REACHABLE = 40


class Utterance(NamedTuple):
    """One message of the history; `sender_type` is user, ai or operator."""

    sender_type: str
    message_content: str


@dataclass(frozen=True)
class Turn:
    """One turn, before and after its steps.

    Before: `history` is oldest first, already windowed and without `message`; `templates` maps a name to the
    business's own template or else the global one; `stage` is the present stage; `now` is ISO 8601; `deadline` is on
    the monotonic clock of this process. The steps fill in the rest: `stage` is then the chosen one, `status` what the
    conversation becomes, `verdict` what the latest step made of its answer, `finished` the kinds of the steps whose
    findings are in; `steps` has the rows of all attempts."""

    business: Business
    agents: Mapping[str, Agent]
    stages: tuple[Stage, ...]
    templates: Mapping[str, Template]
    user: Mapping[str, Any]
    history: tuple[Utterance, ...]
    message: str
    metadata: Mapping[str, Any]
    now: str
    model: str
    stage: Stage | None = None
    agent_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    deadline: float = math.inf
    missing_fields: tuple[str, ...] = ()
    confidence: float | None = None
    retrieved: Mapping[str, Any] | None = None
    response: str | None = None
    answered_by: str | None = None
    degraded: bool = False
    steps: tuple[Step, ...] = ()
    finished: tuple[str, ...] = ()
    status: str = "active"
    verdict: Any = None

    def changed(self, **values: Any) -> Turn:
        """The turn with other values for these fields. dataclasses.replace, which asks and sets every field anew, takes
        ten times as long, and a turn changes some twenty times."""
        if not values.keys() <= _FIELDS:
            raise TypeError(f"no fields of a turn: {values.keys() - _FIELDS}")
        other = object.__new__(Turn)
        state = vars(other)
        state.update(vars(self), **values)
        for name in values:
            for stale in _PART_OF[name]:
                state.pop(stale, None)
        return other

    @property
    def agent(self) -> Agent | None:
        """Who answers."""
        return self.agents.get(self.agent_id) if self.agent_id else None

    @functools.cached_property
    def spoken(self) -> tuple[dict[str, str], ...]:
        """The history as messages of a prompt; each of the three has it."""
        return tuple(
            {"role": "user" if said.sender_type == "user" else "assistant", "content": said.message_content}
            for said in self.history
        )

    @functools.cached_property
    def ranking(self) -> tuple[Stage, ...]:
        """The stages that may follow, best local score first; those without a score come after the fallback stage."""
        scores = dict(similarity.rank(self.message, [_candidate(stage) for stage in self._allowed]))

        def place(stage: Stage) -> tuple[float, bool]:
            return (-scores[stage.stage_name], stage.stage_type != "fallback")

        return tuple(sorted(self._allowed, key=place))

    @functools.cached_property
    def reachable(self) -> tuple[Stage, ...]:
        """The stages that selection chooses from, in their given order; never more than MAX_REACHABLE."""
        if len(self._allowed) <= MAX_REACHABLE:
            return self._allowed
        present = {self.stage.stage_id} if self.stage else set()
        fallback = {stage.stage_id for stage in self._allowed if stage.stage_type == "fallback"}
        by_score = [stage.stage_id for stage in self.ranking]
        best = list(dict.fromkeys((*present, *fallback, *by_score)))[:MAX_REACHABLE]
        return tuple(stage for stage in self._allowed if stage.stage_id in best)

    @property
    def stage_or_best(self) -> Stage:
        """The stage whose prompts and fields count: the present or chosen one, else that with the best local score."""
        return self.stage or self.ranking[0]

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """What is to be known in that stage; empty when nothing is."""
        return self.stage_or_best.data_extraction.get("output_schema") or {}

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens and cost of all steps; the cost is None when that of any step is unknown."""
        # Rows that come back from the ledger have decimals.
        costs = [None if step.cost_usd is None else float(step.cost_usd) for step in self.steps]
        known = [cost for cost in costs if cost is not None]
        return {
            "prompt_tokens": sum(step.prompt_tokens for step in self.steps),
            "completion_tokens": sum(step.completion_tokens for step in self.steps),
            "cost_usd": round(sum(known), 8) if len(known) == len(costs) else None,
        }

    @property
    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by kind of step; calls side by side count in full, each under its own kind."""
        return {kind: sum(step.latency_ms for step in self.steps if step.kind == kind) for kind in KINDS}

    @property
    def _allowed(self) -> tuple[Stage, ...]:
        names = None if self.stage is None else self.stage.stage_selection.get("next_stages")
        if self.stage is None or names is None:
            return self.stages
        allowed = {*names, self.stage.stage_name}
        return tuple(stage for stage in self.stages if stage.stage_name in allowed)


_FIELDS = {each.name for each in dataclasses.fields(Turn)}
_RANKED_BY = frozenset({"stage", "stages", "message"})
# The cached properties, and what each looks at; and the fields, with the properties that each is part of.
_MADE_FROM = {"ranking": _RANKED_BY, "reachable": _RANKED_BY, "spoken": frozenset({"history"})}
_PART_OF = {field: tuple(name for name in _MADE_FROM if field in _MADE_FROM[name]) for field in _FIELDS}


def window(history: Sequence[Utterance], tokens: int) -> tuple[Utterance, ...]:
    """The newest utterances that fit into so many tokens, four characters each; no gaps."""
    left = tokens * CHARACTERS_PER_TOKEN
    kept = 0
    for utterance in reversed(history):
        left -= len(utterance.message_content)
        if left < 0:
            break
        kept += 1
    return tuple(history[len(history) - kept :])


def _candidate(stage: Stage) -> similarity.Candidate:
    return similarity.Candidate(stage.stage_name, stage.stage_description, stage.stage_selection_example_conversations)
