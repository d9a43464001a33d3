"""The measurement of prompt sizes measures what it says."""

from __future__ import annotations

import pytest

from bench import prompt_size
from bench.banking import SENTENCES
from nlp import turn as turns

STAGES = [prompt_size.stage(name) for name in SENTENCES]
SAID = ["I lost my card", "Close my account, please"]


def test_prompts_grow_with_the_stages_up_to_the_limit() -> None:
    tokens = [prompt_size.whole(prompt_size.turn(STAGES[:size], SAID[0])) for size in prompt_size.SIZES]
    selections = [selection for selection, *_ in tokens]
    assert selections[0] < selections[1] < selections[2]
    assert selections[3] == pytest.approx(selections[2], rel=0.1)
    assert {round(reply, -2) for *_, reply in tokens} == {400}


def test_neighbours_share_their_beginning_until_stages_are_chosen_beforehand() -> None:
    few = [prompt_size.turn(STAGES[:40], said) for said in SAID]
    many = [prompt_size.turn(STAGES, said) for said in SAID]
    assert prompt_size.shared(few) > 0.95
    assert prompt_size.shared(many) < 0.5


def test_tables_are_printed_and_the_limit_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    limit = turns.MAX_REACHABLE
    prompt_size.main()
    told = capsys.readouterr().out
    assert "| 77 | 77 |" in told
    assert f"of {len(SENTENCES)} |" in told
    assert limit == turns.MAX_REACHABLE
