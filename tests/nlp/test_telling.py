"""The pieces of a reply that a customer sees coming: together they are the reply."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nlp import llm, pipeline, response_generation
from nlp.turn import Turn
from tests.nlp import turns
from tests.nlp.turns import DOWN, good


class Streaming:
    """A scripted model that tells its reply in pieces."""

    def __init__(self, *pieces: str, **lines: Any) -> None:
        self._pieces = pieces
        self.script = good(**{"response_generation": "".join(pieces)} | lines)

    def __call__(self, request: llm.Request) -> llm.Answer:
        answer = self.script(request)
        for piece in self._pieces if request.on_text is not None else ():
            request.on_text(piece)  # type: ignore[misc]
        return answer


def tell(ask: Any, before: Turn | None = None) -> tuple[Turn, list[str]]:
    told: list[str] = []
    *_, after = pipeline.run(before or turns.turn(), ask, tell=told.append)
    return after, told


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["It is", " on its", " way."], ["It is", " on its", " way."]),
        ([" \n", " It", " ", "\n", "is. ", "\n"], ["It", " \nis."]),
        (["On\u200be\x00", "\x1b", "\ufeff two "], ["One", " two"]),
        (["x" * 20_000, "y" * 20_000], ["x" * 20_000, "y" * 12_000]),
    ],
)
def test_pieces_are_cleaned_as_the_whole_is(pieces: list[str], expected: list[str]) -> None:
    assert tell(Streaming(*pieces))[1] == expected


def test_any_text_in_any_pieces_is_told_as_the_reply_that_it_becomes() -> None:
    chance = random.Random(7)
    letters = "ab \n\t\u200b\u00a0\x00\x1f\ufeff\U000e0041é\U0001f600"
    for _ in range(200):
        text = "w" + "".join(chance.choices(letters, k=chance.randrange(40)))
        text = "".join(chance.sample(text, len(text)))
        cuts = sorted(chance.choices(range(len(text) + 1), k=6))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        after, told = tell(Streaming(*pieces))
        assert "".join(told) == after.response == response_generation.cleaned(text)
        assert "" not in told


def test_only_the_reply_is_asked_for_as_a_stream() -> None:
    ask = Streaming("Yes.")
    tell(ask)
    assert [request.on_text is not None for request in ask.script.requests] == [False, False, True]
    turns.run(turns.turn(), ask)
    assert ask.script.requests[-1].on_text is None


def test_reply_of_a_model_that_does_not_stream_is_told_whole() -> None:
    after, told = tell(good())
    assert told == [after.response]


@pytest.mark.parametrize("kind", turns.KINDS)
def test_fallback_text_is_told_whole(kind: str) -> None:
    stage = turns.stage("order_status", fallback_text="Sorry, {{ user.name }}.", output_schema=turns.ORDER_FIELDS)
    before = turns.turn(stages=(stage, turns.GREETING), stage=stage)
    assert tell(good(**{kind: DOWN}), before)[1] == ["Sorry, Pat."]


def test_fixed_text_is_told_whole_and_after_the_turn_was_handed_out() -> None:
    stage = turns.stage("greeting", fixed_text=" Hello {{ user.name }} \u200b")
    seen: list[Any] = []
    for turn in pipeline.run(turns.turn(stages=(stage,)), good(), tell=seen.append):
        seen.append(turn.response)
    assert seen == [None, "Hello Pat", "Hello Pat"]


def test_nothing_is_told_before_what_was_found_is_handed_out() -> None:
    seen: list[Any] = []
    for turn in pipeline.run(turns.turn(), Streaming("A", "B"), tell=seen.append):
        seen.append((len(turn.steps), turn.response))
    assert seen == [(1, None), (2, None), "A", "B", (3, "AB")]


def test_second_answer_is_told_when_nothing_of_the_first_was() -> None:
    ask = Streaming(response_generation=[llm.Answer(None, refusal="No."), "Better."])
    assert tell(ask)[1] == ["Better."]
    assert ask.script.requests[-1].on_text is not None


def test_second_answer_is_not_told_after_words_of_the_first() -> None:
    half = llm.Answer("Half a", finish_reason="length")
    ask = Streaming("Half", " a", response_generation=[half, "Better."])
    after, told = tell(ask)
    assert (told, after.response) == (["Half", " a"], "Better.")
    assert ask.script.requests[-1].on_text is None
