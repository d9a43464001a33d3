"""The model stub: answers that fit their schema, times that are kept, and calls that are known as their turn's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest

from bench import ground, stub_answers, stub_stats
from bench.importer import Api

TEXT = {"type": "string"}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": TEXT, "b": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, TEXT]}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": ["null", "number"], "minimum": 3}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2},
    {"type": "string", "minLength": 40},
    {"type": "string", "maxLength": 3},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "exclusiveMinimum": 10, "multipleOf": 4},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "boolean"},
    {"const": {"deep": [1]}},
    {"$defs": {"it": {"$ref": "#/$defs/number"}, "number": {"type": "number", "minimum": 7.5}}, "$ref": "#/$defs/it"},
    {"allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]}]},
    {"oneOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]},
]


class Stub(Api):
    """The running stub, asked as its users ask."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "")
        self.url = url


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with ground.stub() as url:
        yield Stub(url)


@pytest.fixture
def model(stub: Stub) -> Iterator[openai.OpenAI]:
    set_speed(stub, 0, 0, 5)
    stub.request("POST", "/reset")
    with openai.OpenAI(api_key="any", base_url=f"{stub.url}/v1", max_retries=0) as client:
        yield client


def set_speed(stub: Stub, first_token_ms: float, token_ms: float, tokens: int) -> None:
    wanted = {"first_token_ms": first_token_ms, "token_ms": token_ms, "tokens": tokens}
    assert stub.request("POST", "/config", wanted).body == wanted


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def answer(schema: dict[str, Any], text: str) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return json.loads(stub_answers.text({"messages": said(text), "response_format": wanted}, 40))


@pytest.mark.parametrize("text", ["", "Hello", "It is 441187."])
@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_an_answer_fits_its_schema(schema: dict[str, Any], text: str) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(answer(schema, text))


def test_the_customers_words_choose_and_fill() -> None:
    stages = {"enum": ["order_status", "returns", "none"]}
    assert answer(stages, "I have a question about returns") == "returns"
    assert answer(stages, "Good morning") == "none"
    field = {"type": ["string", "null"]}
    assert (answer(field, "It is 441187."), answer(field, "I do not know")) == ("441187", None)


def test_the_sdk_reads_whole_answers_and_streams(stub: Stub, model: openai.OpenAI) -> None:
    whole = model.chat.completions.create(model="m", messages=said("Hello"))
    assert whole.usage is not None
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("stop", 5)
    options: Any = {"include_usage": True}
    chunks = list(model.chat.completions.create(model="m", messages=said("Hi"), stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert stub.request("GET", "/stats").body["calls"] == 2


def test_a_stream_lasts_as_long_as_a_whole_answer_and_begins_with_the_first_token(
    stub: Stub, model: openai.OpenAI
) -> None:
    set_speed(stub, 30, 5, 9)
    for number, is_streaming in enumerate((False, True)):
        text = f"Hello {stub_stats.mark(f'turn{number}')}"
        answered: Any = model.chat.completions.create(model="m", messages=said(text), stream=is_streaming)
        if is_streaming:
            list(answered)
    rows = stub.request("GET", "/turns").body
    # Only from below: a busy machine may take longer.
    assert all(row["busy_seconds"] >= 0.069 for row in rows.values())
    assert set(rows) == {"turn0", "turn1"}


def test_calls_of_a_turn_are_told_side_by_side_from_in_sequence(stub: Stub, model: openai.OpenAI) -> None:
    set_speed(stub, 150, 0, 1)
    ask = said(f"earlier {stub_stats.mark('old')} now {stub_stats.mark('t1')}")

    def call(_number: int) -> None:
        model.chat.completions.create(model="m", messages=ask)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(call, range(2)))
    call(2)
    row = stub.request("GET", "/turns").body["t1"]
    assert row["calls"] == 3
    assert row["busy_seconds"] >= 0.3
    assert row["first_token"] > 0


def test_chains_and_covered_time_are_counted_from_the_spans() -> None:
    stats = stub_stats.Stats(
        [stub_stats.Call("t", start, 10, ended=end) for start, end in ((0, 2), (0.5, 1), (3, 4), (3.5, 5))]
    )
    row = stats.turns()["t"]
    assert (row["calls"], row["in_sequence"], row["busy_seconds"], row["prompt_bytes"]) == (4, 2, 4, 40)


def test_nonsense_is_refused_and_the_connection_goes_on(stub: Stub) -> None:
    assert stub.request("GET", "/unknown").status == 404
    assert stub.request("POST", "/v1/chat/completions", ["no request"]).status == 400
    assert stub.request("POST", "/config", {"speed": 1}).status == 400
    assert stub.request("GET", "/stats").body["running"] == 0
