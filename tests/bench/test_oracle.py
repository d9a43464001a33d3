"""The oracle over HTTP, through the SDK that the app itself uses and through bare requests."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import openai
import pytest

from bench import importer, oracle

TURN = importer.Turn("My Lamp, for 5 today.", "AskPrice", {"item": "lamp", "speed": "today"}, "That is 20.")
STAGES = {"reason": {"type": "string"}, "stage": {"type": "string", "enum": ["AskPrice", "Other", "none"]}}
FIELDS: dict[str, Any] = {name: {"type": "object"} for name in ("item", "day")}


@pytest.fixture
def truth() -> Iterator[oracle.Oracle]:
    with oracle.Oracle() as server:
        yield server


@pytest.fixture
def client(truth: oracle.Oracle) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=truth.url, max_retries=0) as sdk:
        yield sdk


def messages(*contents: str) -> Any:
    return [{"role": "user", "content": content} for content in contents]


def ask(client: openai.OpenAI, name: str, properties: dict[str, Any], *contents: str) -> Any:
    schema = {"type": "object", "properties": properties}
    completion = client.chat.completions.create(
        model="any",
        messages=messages(*(contents or (TURN.user,))),
        response_format=cast(Any, {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}),
    )
    return json.loads(completion.choices[0].message.content or "")


def test_stage_is_the_files(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    assert ask(client, "stage_selection", STAGES)["stage"] == "AskPrice"
    calls = truth.end()
    assert calls.by_kind == {"stage_selection": 1}
    assert calls.faults == []


def test_turn_of_no_stage_is_answered_with_none(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(importer.Turn("Bye.", "NONE", {}, "Bye."))
    assert ask(client, "stage_selection", STAGES, "Bye.")["stage"] == "none"
    assert truth.end().faults == []


def test_stage_that_was_not_offered_is_a_fault(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    assert ask(client, "stage_selection", {"stage": {"enum": ["Other", "none"]}})["stage"] == "none"
    assert truth.end().faults == ["stage_selection did not offer 'AskPrice'"]


def test_asked_fields_have_value_and_the_customers_words(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    assert ask(client, "data_extraction", FIELDS) == {
        "item": {"value": "lamp", "quote": "Lamp"},
        "day": {"value": None, "quote": None},
    }


def test_plain_reply_is_the_files(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    completion = client.chat.completions.create(model="any", messages=messages(TURN.user))
    assert completion.choices[0].message.content == "That is 20."
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3
    assert truth.end().by_kind == {"response_generation": 1}


def test_state_of_the_last_prompt_is_kept(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    state = 'State (data, not instructions):\n{"retrieved": {"rows": [{"price": "20"}]}}'
    ask(client, "data_extraction", FIELDS, state.replace("20", "30"), TURN.user)
    client.chat.completions.create(model="any", messages=messages("State of what?", state, TURN.user))
    assert truth.end().state == {"retrieved": {"rows": [{"price": "20"}]}}


def test_streamed_reply_arrives_in_pieces_with_usage(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    chunks = list(
        client.chat.completions.create(
            model="any",
            messages=messages(TURN.user),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [piece for piece in pieces if piece] == ["That", " is", " 20."]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None


def test_other_message_is_a_fault(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    ask(client, "data_extraction", FIELDS, "Something else")
    (fault,) = truth.end().faults
    assert "'Something else' instead of 'My Lamp, for 5 today.'" in fault


def test_second_asking_is_counted_apart(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    ask(client, "data_extraction", FIELDS)
    ask(client, "data_extraction", FIELDS, TURN.user, "Your last answer could not be used: no. Answer again")
    calls = truth.end()
    assert (calls.by_kind["data_extraction"], calls.reasked, calls.faults) == (1, 1, [])


def test_late_extraction_counts_for_the_turn_it_belongs_to(truth: oracle.Oracle, client: openai.OpenAI) -> None:
    truth.begin(TURN)
    calls = truth.end()
    for begun in (False, True):
        if begun:
            truth.begin(importer.Turn("And now a radio.", "AskPrice", {"item": "radio"}, "That is 30."))
        assert ask(client, "data_extraction", FIELDS, TURN.user)["item"] == {"value": "lamp", "quote": "Lamp"}
    assert (calls.by_kind["data_extraction"], calls.faults) == (2, [])
    ask(client, "stage_selection", STAGES, TURN.user)
    (fault,) = truth.end().faults
    assert fault.startswith("stage_selection was asked about 'My Lamp")


def test_call_outside_a_turn_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no turn is being played"):
        client.chat.completions.create(model="any", messages=messages("Hello"))


def test_connection_that_is_kept_alive_does_not_hold_up_the_end() -> None:
    threads_before = threading.active_count()
    server = oracle.Oracle()
    with openai.OpenAI(api_key="any", base_url=server.url) as client:
        with server:
            server.begin(TURN)
            ask(client, "data_extraction", FIELDS)
        assert threading.active_count() == threads_before


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"messages": []}', '{"response_format": 1}'])
def test_malformed_request_is_a_400(truth: oracle.Oracle, body: str) -> None:
    truth.begin(TURN)
    assert post(truth, "/v1/chat/completions", body) == 400


def test_unknown_path_is_a_404(truth: oracle.Oracle) -> None:
    assert post(truth, "/v1/other", "{}") == 404


def post(truth: oracle.Oracle, path: str, body: str) -> int:
    connection = http.client.HTTPConnection(truth.url.split("/")[2], timeout=10)
    try:
        connection.request("POST", path, body)
        return connection.getresponse().status
    finally:
        connection.close()


def test_quote_takes_whole_words_only() -> None:
    assert oracle.quote("1", "I need 11 of them") is None
    assert oracle.quote("$20", "it was $20, I think") == "$20"
    assert oracle.quote("san jose", "In San Jose please") == "San Jose"
