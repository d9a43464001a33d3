"""How long the prompts of a turn are by the number of stages, and what choosing 40 stages beforehand does to them.

    python -m bench.prompt_size

The stages carry the names of Banking77's intents and descriptions made of those names; the customers' sentences are
made up. Tokens are counted as four characters each. Nothing is asked of a model."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from bench.banking import SENTENCES
from db.businesses import Business
from db.stages import Stage
from nlp import data_extraction, response_generation, stage_selection
from nlp import turn as turns
from nlp.llm import Message
from nlp.turn import Turn

AT = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = (5, 20, 40, 77)
FIELDS = {"type": "object", "properties": {"reference": {"type": "string", "description": "Number of the case"}}}
BUSINESS = Business("b", "o", "Harbour Bank", "A bank with an app and cards", None, None, None, {}, AT, AT, [], [], [])


def stage(name: str) -> Stage:
    """A stage that has nothing but its name and what follows from it."""
    said = name.replace("_", " ").lower()
    return Stage(
        stage_id=name,
        business_id="b",
        agent_id=None,
        stage_name=name,
        stage_type="information",
        stage_description=f"The customer asks or complains about this: {said}.",
        stage_selection={"prompt": {}, "next_stages": None},
        data_extraction={"prompt": {}, "output_schema": FIELDS},
        data_retrieval={"method": "none", "config": {}},
        response_generation={"prompt": {}},
        stage_selection_example_conversations="",
        created_at=AT,
        updated_at=AT,
    )


def turn(stages: Sequence[Stage], message: str) -> Turn:
    """A first message."""
    now = AT.isoformat()
    return Turn(BUSINESS, {}, tuple(stages), {}, {}, (), message, {}, now, "any")


def text(prompt: Sequence[Message], schema: object) -> str:
    """A prompt as a provider reads it: the answer's schema, then the messages."""
    return json.dumps(schema) + "".join(f"\n{said['role']}: {said['content']}" for said in prompt)


def selection(before: Turn) -> str:
    """The first prompt of a turn."""
    return text(stage_selection.prompt(before), stage_selection.answer_schema(before))


def whole(before: Turn) -> list[int]:
    """The tokens of the three prompts."""
    after = replace(before, stage=before.stage_or_best)
    extraction = text(data_extraction.prompt(after), data_extraction.answer_schema(after))
    said = [selection(before), extraction, text(response_generation.prompt(after), None)]
    return [len(each) // turns.CHARACTERS_PER_TOKEN for each in said]


def shared(before: Sequence[Turn]) -> float:
    """The share of the first prompt that two turns in a row begin with alike, of all pairs of neighbours."""
    prompts = [selection(each) for each in before]
    return statistics.mean(_alike(*pair) / len(pair[1]) for pair in itertools.pairwise(prompts))


def _alike(first: str, second: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def sizes(stages: Sequence[Stage]) -> None:
    """Print the tokens of a turn by the number of stages."""
    print("| stages | offered | selection | extraction | reply | whole turn | shared by neighbours |")
    print("|---|---|---|---|---|---|---|")
    usual = turns.MAX_REACHABLE
    for size, limit in [*((size, usual) for size in SIZES), (77, 77)]:
        turns.MAX_REACHABLE = limit
        before = [turn(stages[:size], said) for said in SENTENCES.values()]
        tokens = [round(statistics.mean(column)) for column in zip(*map(whole, before), strict=True)]
        offered = len(before[0].reachable)
        columns = [size, offered, *tokens, sum(tokens), f"{shared(before):.0%}"]
        print("| " + " | ".join(map(str, columns)) + " |")
    turns.MAX_REACHABLE = usual


def places(stages: Sequence[Stage]) -> list[int]:
    """Where each sentence's own stage stands by the local score, from 1."""
    found = []
    for name, said in SENTENCES.items():
        ranked = [each.stage_name for each in turn(stages, said).ranking]
        found.append(ranked.index(name) + 1)
    return found


def main() -> None:
    """Print both tables."""
    stages = [stage(name) for name in SENTENCES]
    sizes(stages)
    found = places(stages)
    print("\n| the right stage of 77 is among the best | sentences |")
    print("|---|---|")
    for limit in (1, 5, 10, 20, 40):
        print(f"| {limit} | {sum(place <= limit for place in found)} of {len(found)} |")
    missed = [name for name, place in zip(SENTENCES, found, strict=True) if place > SIZES[2]]
    print(f"\nnot among the best {SIZES[2]}: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
