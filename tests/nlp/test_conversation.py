"""A short conversation through the whole of nlp: the offline model behind the real client, threads and all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nlp import llm, offline
from nlp.side_by_side import Threads
from nlp.turn import Turn, Utterance
from tests.nlp import turns

STAGES = (
    turns.stage(
        "greeting",
        stage_description="The customer says hello.",
        stage_selection_example_conversations="Customer: Hello\nAssistant: Hello! How can I help you?",
    ),
    turns.stage(
        "order_status",
        stage_description="The customer asks where an order is.",
        output_schema=turns.ORDER_FIELDS,
        stage_selection_example_conversations="Customer: Where is my parcel?\nAssistant: Which order is it?",
    ),
)


@pytest.fixture
def threads() -> Iterator[Threads]:
    some = Threads(2)
    yield some
    some.close()


def test_order_number_is_asked_for_and_understood(threads: Threads) -> None:
    model = llm.Model(None, "http://offline/v1", http_transport=offline.transport())
    state = turns.turn(stages=STAGES, model="icmp-offline")
    seen: list[Turn] = []
    for message in ("Hello there", "Where is my order?", "It is 4411"):
        after = turns.run(replace(state, message=message), model.ask, threads)
        said = (Utterance("user", message), Utterance("ai", after.response or ""))
        state = replace(state, stage=after.stage, data=after.data, history=(*state.history, *said))
        seen.append(after)
    assert [after.stage.stage_name for after in seen if after.stage] == ["greeting", "order_status", "order_status"]
    assert [after.missing_fields for after in seen] == [(), ("order_number",), ()]
    assert seen[-1].data == {"order_number": "4411"}
    assert all(after.response and after.answered_by == "icmp-offline" and not after.degraded for after in seen)
    assert seen[-1].usage["cost_usd"] == 0
