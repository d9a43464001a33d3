"""Settings that a server does not take: renamed or left out, and remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from nlp import llm
from tests.nlp import model_server as play
from tests.nlp.model_server import REQUEST, Server, model, refused


@pytest.fixture
def server() -> Iterator[Server]:
    with play.running() as running:
        yield running


MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)


def test_refused_max_tokens_goes_out_under_its_other_name_from_then_on(server: Server) -> None:
    server.script = [play.fails(400, MAX_TOKENS, code="unsupported_parameter", param="max_tokens"), play.answers()]
    asked = model(server)
    request = replace(REQUEST, settings={"max_tokens": 50, "temperature": 0.2})
    assert asked.ask(request).attempts == 2
    assert asked.ask(request).attempts == 1
    sent = [
        {key: body.get(key) for key in ("max_tokens", "max_completion_tokens", "temperature")} for body in server.bodies
    ]
    first = {"max_tokens": 50, "max_completion_tokens": None, "temperature": 0.2}
    renamed = {"max_tokens": None, "max_completion_tokens": 50, "temperature": 0.2}
    assert sent == [first, renamed, renamed]


def test_other_models_of_the_server_are_still_asked_the_usual_way(server: Server) -> None:
    server.script = [play.fails(400, MAX_TOKENS), play.answers()]
    asked = model(server)
    for name in ("m-1", "m-2"):
        asked.ask(replace(REQUEST, model=name, settings={"max_tokens": 50}))
    assert server.bodies[-1]["max_tokens"] == 50


@pytest.mark.parametrize("parameter", ["temperature", "top_p", "seed", "reasoning_effort"])
@pytest.mark.parametrize("form", ["param", "message"])
def test_refused_setting_is_left_out(server: Server, parameter: str, form: str) -> None:
    told: dict[str, Any] = (
        {"code": "unsupported_value", "param": parameter} if form == "param" else {"message": f"no '{parameter}' here"}
    )
    server.script = [play.fails(400, **told), play.answers()]
    settings = {"temperature": 0.5, "top_p": 0.5, "seed": 1, "reasoning_effort": "low"}
    answer = model(server).ask(replace(REQUEST, settings=settings))
    assert answer.attempts == 2
    assert server.bodies[1].keys() & settings.keys() == settings.keys() - {parameter}


def test_server_that_refuses_every_setting_is_asked_without_them(server: Server) -> None:
    settings = {"temperature": 0.5, "max_tokens": 9}
    complaints = [
        play.fails(400, f"{name} is not permitted") for name in ("temperature", "max_tokens", "max_completion_tokens")
    ]
    server.script = [*complaints, play.answers()]
    assert model(server).ask(replace(REQUEST, settings=settings)).attempts == 4
    assert server.bodies[-1].keys() == {"model", "messages"}


def test_server_that_never_stops_complaining_is_given_up(server: Server) -> None:
    server.script = [play.fails(400, "temperature, top_p, max_tokens and max_completion_tokens are wrong")]
    settings = {"temperature": 0.5, "top_p": 1, "max_tokens": 9}
    assert refused(model(server), replace(REQUEST, settings=settings)).reason == "rejected"
    assert len(server.bodies) <= llm.MAX_ADAPTATIONS + 1


def test_complaint_about_something_else_changes_nothing(server: Server) -> None:
    server.script = [play.fails(400, "temperature is fine, the schema is not", param="response_format")]
    assert refused(model(server), replace(REQUEST, settings={"temperature": 0.5})).attempts == 1


def test_openai_itself_gets_max_completion_tokens() -> None:
    sent: list[dict[str, Any]] = []

    class Recorder(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            sent.append({"url": str(request.url)} | json.loads(request.read()))
            return httpx2.Response(200, json=play.reply())

    asked = llm.Model("k", http_transport=Recorder())
    asked.ask(replace(REQUEST, settings={"max_tokens": 50}))
    assert sent[0]["url"] == "https://api.openai.com/v1/chat/completions"
    assert (sent[0].get("max_tokens"), sent[0]["max_completion_tokens"]) == (None, 50)


def test_a_wrong_value_is_the_tenants_own_mistake(server: Server) -> None:
    server.script = [play.fails(400, "Invalid value: 'rubbish'", code="invalid_value", param="reasoning_effort")]
    settings = {"reasoning_effort": "rubbish"}
    assert refused(model(server), replace(REQUEST, settings=settings)).reason == "rejected"


def test_what_one_value_taught_leaves_other_values_alone(server: Server) -> None:
    server.script = [play.fails(400, code="unsupported_value", param="temperature"), play.answers()]
    asked = model(server)
    asked.ask(replace(REQUEST, settings={"temperature": 0.5}))
    asked.ask(replace(REQUEST, settings={"temperature": 1}))
    assert [body.get("temperature") for body in server.bodies] == [0.5, None, 1]
